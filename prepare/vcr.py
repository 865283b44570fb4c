"""VCR to a text store: questions, answers and rationales become word pieces, and tags become special tokens.

Each object of a tag becomes the word pieces of its name and one of 81 special tokens, whose ids follow the vocabulary.
The token tells where the object is: the image is divided into 9 × 9 cells, and the centre of the object's box lies in
one of them. The model sees regions with positions but without order, so it can learn to find a region by a position,
but not by an index into `objects`. Up to 81 objects of an example get different tokens: if a cell is taken, the
nearest free cell is used.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from toolz import mapcat

from data.txt_writer import TextWriter
from prepare.annotations import Text
from prepare.annotations_vcr import Tokens, VcrText, vcr_boxes, vcr_examples
from prepare.image_names import VCR_GT_IMG_NAME, VCR_IMG_NAME, ImageNames
from prepare.preparation import Preparation
from utils.formats import VCR_TOKENS

GRID = 9  # cells per side; VCR_TOKENS = GRID * GRID


def prepare_vcr(args: argparse.Namespace) -> None:
    """Write the questions, answers and rationales of `args.annotations` to the store `args.output`."""
    preparation = Preparation(args, VCR_IMG_NAME)
    gt_names = ImageNames(args.gt_img_name or VCR_GT_IMG_NAME)

    def encode(text: Text) -> dict[str, Any]:
        assert isinstance(text, VcrText)
        numbers = token_numbers(text, Path(args.metadata), args.tags)
        first_token = preparation.tokenizer.v_range[1]
        object_tokens = {index: first_token + number for index, number in numbers.items()}
        object_names = text.objects if args.object_names == "before" else None

        def ids(tokens: Tokens) -> list[int]:
            return encode_tokens(tokens, preparation.tokenizer.encode, object_tokens, object_names)

        return {
            "input_ids": ids(text.question),
            "input_ids_as": [ids(answer) for answer in text.answers],
            "input_ids_rs": [ids(rationale) for rationale in text.rationales],
        }

    with TextWriter(preparation.output, preparation.meta()) as writer:
        for text, record in preparation.records(mapcat(vcr_examples, args.annotations), encode):
            writer.add(text.id, record | {"img_fname": [gt_names.name(text), record["img_fname"]]})
    preparation.report()


def encode_tokens(
    tokens: Tokens,
    encode: Callable[[str], list[int]],
    object_tokens: dict[int, int],
    object_names: Sequence[str] | None,
) -> list[int]:
    """Ids of the word pieces and special tokens of a list of words and tags.

    `encode`: the tokeniser. `object_tokens`: object index to the id of its special token. `object_names`: names to
    write before the special tokens; None: no names.
    """
    ids: list[int] = []
    for token in tokens:
        if isinstance(token, str):
            ids += encode(token)
            continue
        for index in token:
            ids += (encode(object_names[index]) if object_names else []) + [object_tokens[index]]
    return ids


def token_numbers(text: VcrText, folder: Path, tags: str) -> dict[int, int]:
    """Object index to the number of its special token, 0..80, for all objects that the example mentions.

    `folder`: the metadata folder. `tags`: "place" for the cell of the object's box, "index" for the object's index (at
    most 80).
    """
    boxes, size = vcr_boxes(folder / text.metadata_file, text)
    token_lists = [text.question, *text.answers, *text.rationales]
    objects = sorted({index for tokens in token_lists for tag in tokens if not isinstance(tag, str) for index in tag})
    if tags == "index":
        return {index: min(index, VCR_TOKENS - 1) for index in objects}
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.array(size)
    return place_tokens({index: (middles[index][0], middles[index][1]) for index in objects})


def place_tokens(middles: dict[int, tuple[float, float]]) -> dict[int, int]:
    """Assign each point (x, y) in 0..1 its grid cell, or the nearest free cell: key to cell number, row by row.

    When no cell is free, a point takes its own cell.
    """
    row, column = np.divmod(np.arange(VCR_TOKENS), GRID)
    cells: dict[int, int] = {}
    for key, (x, y) in middles.items():
        distance = (column + 0.5 - GRID * x) ** 2 + (row + 0.5 - GRID * y) ** 2
        order = np.argsort(distance, kind="stable").tolist()
        occupied_cells = set(cells.values())
        cells[key] = next((cell for cell in order if cell not in occupied_cells), order[0])
    return cells
