"""VCR to a text store: what becomes of its tags.

Of a tag, each object becomes the word pieces of its name and one of 81 special tokens, which follow the vocabulary. The
special token says where the object is: the cell, of 9 × 9 over the picture, of its box's middle. The model sees regions
without order but with their places, so a place is what it can learn to look up; an index into `objects` is not. Objects
of one question never share a token: who finds the cell taken gets the nearest free one.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.txt_store import VCR_TOKENS, TextWriter
from prepare.annotations import Text
from prepare.annotations_vcr import Tokens, VcrText, vcr_boxes, vcr_examples
from prepare.image_names import VCR_GT_IMG_NAME, VCR_IMG_NAME, ImageNames
from prepare.preparation import Preparation

GRID = 9  # cells a side: VCR_TOKENS = GRID * GRID


def prepare_vcr(args: argparse.Namespace) -> None:
    """Questions with their answers and rationales."""
    job, gt_names = Preparation(args, VCR_IMG_NAME), ImageNames(args.gt_img_name or VCR_GT_IMG_NAME)
    texts = (text for path in args.annotations for text in vcr_examples(path))

    def pieces(text: Text) -> dict[str, Any]:
        assert isinstance(text, VcrText)
        numbers = tag_tokens(text, Path(args.metadata), args.tags)
        special = {k: job.tokenizer.v_range[1] + number for k, number in numbers.items()}
        names = text.objects if args.object_names == "before" else None

        def encode(tokens: Tokens) -> list[int]:
            return encode_tokens(tokens, job.tokenizer.encode, special, names)

        return {
            "input_ids": encode(text.question),
            "input_ids_as": [encode(choice) for choice in text.answers],
            "input_ids_rs": [encode(choice) for choice in text.rationales],
        }

    with TextWriter(args.output, job.meta()) as writer:
        for text, record in job.records(texts, pieces):
            writer.add(text.id, record | {"img_fname": [gt_names.name(text), record["img_fname"]]})
    job.report()


def encode_tokens(
    tokens: Tokens, encode: Callable[[str], list[int]], special: dict[int, int], names: Sequence[str] | None
) -> list[int]:
    """Word pieces of words and tags; `special`: the token of each object; `names`: written before it, or None."""
    ids: list[int] = []
    for token in tokens:
        if isinstance(token, str):
            ids += encode(token)
            continue
        for k in token:
            ids += (encode(names[k]) if names else []) + [special[k]]
    return ids


def tag_tokens(text: VcrText, folder: Path, tags: str) -> dict[int, int]:
    """Object index to the number of its special token, 0..80, for the objects that the example mentions."""
    boxes, size = vcr_boxes(folder / text.metadata, text)
    spoken = [text.question, *text.answers, *text.rationales]
    mentioned = sorted({k for tokens in spoken for token in tokens if not isinstance(token, str) for k in token})
    if tags == "index":
        return {k: min(k, VCR_TOKENS - 1) for k in mentioned}
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.array(size)
    return place_tokens({k: (middles[k][0], middles[k][1]) for k in mentioned})


def place_tokens(middles: dict[int, tuple[float, float]]) -> dict[int, int]:
    """Key to cell, row by row, of points (x, y) in 0..1; where the cell is taken, the nearest that is free.

    With more points than cells the rest keep their own.
    """
    row, column = np.divmod(np.arange(VCR_TOKENS), GRID)
    taken: dict[int, int] = {}
    for key, (x, y) in middles.items():
        distance = (column + 0.5 - GRID * x) ** 2 + (row + 0.5 - GRID * y) ** 2
        order = np.argsort(distance, kind="stable").tolist()
        used = set(taken.values())
        taken[key] = next((cell for cell in order if cell not in used), order[0])
    return taken
