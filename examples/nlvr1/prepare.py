"""Cornell NLVR's files → stores: pictures by the visual words of their boxes, sentences by their words.

    python -m examples.nlvr1.prepare --data nlvr1 --output nlvr1/stores

Of the training sentences 5 % are held out, with all their pictures: early stopping looks at those, never at dev.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/by_path.py"))

import argparse
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from data.rng import generator
from data.txt_writer import TextWriter
from examples.nlvr1.panels import Scale, objects
from examples.nlvr1.pixels import CANVAS, PANEL_STEP, VisualWords
from examples.nlvr1.statements import Statements
from examples.nlvr1.words import MARKS, Vocabulary
from prepare.entries import json_lines
from scripts import convert_imgdir
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import new_folder
from utils.options import MOST, option

MAX_OBJECTS = 32  # of a picture; eight in a panel are the most there are
HELD_OUT_SHARE = 0.05  # of the training sentences


@dataclass(kw_only=True)
class PrepareConfig:
    """Options of the preparation."""

    data: str = option(help="folder of the official files (examples/nlvr1/README.md lists them)")
    output: str = option(help="new folder for the stores")
    train: str = option(
        "train_recovered.json.gz", help="file of training annotations in the data folder, .json or .json.gz"
    )
    statements: int = option(
        100_000, help="generated statements, each with a picture true of it and one not", at_least=1, at_most=MOST
    )


def read_examples(path: Path) -> list[dict[str, Any]]:
    """Read the examples of an annotation file, one JSON object per line."""
    return [example for _, example in json_lines(path)]


def corners(example: dict[str, Any]) -> np.ndarray:
    """(n, 4) pixels of the boxes in a picture with the panels in their own order."""
    boxes = [
        (PANEL_STEP * panel + thing["x_loc"], thing["y_loc"], thing["size"])
        for panel, things in enumerate(example["structured_rep"])
        for thing in things
    ]
    x, y, side = np.array(boxes, int).reshape(-1, 3).T
    return np.stack([x, y, x + side, y + side], 1)


def reorder(boxes: np.ndarray, k: int) -> np.ndarray:
    """The boxes in picture k, which shows the panels in the k-th order of `itertools.permutations`."""
    order = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)][k]
    panel = boxes[:, 0] // PANEL_STEP
    shift = PANEL_STEP * (np.argsort(order)[panel] - panel)
    return boxes + np.stack([shift, 0 * shift, shift, 0 * shift], 1)


def pictures(
    archive: Path, split: str, examples: list[dict[str, Any]], orders: int
) -> Iterator[tuple[dict[str, Any], int, np.ndarray]]:
    """(example, panel order, its pixels (100, 400, 3)) of every picture."""
    try:
        with zipfile.ZipFile(archive) as file:
            for example in examples:
                for k in range(orders):
                    data = file.read(f"{split}-{example['identifier']}-{k}.png")
                    yield example, k, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError("cannot be read", file=archive, found=error, expected="a PNG of every example") from None


def write_pictures(
    archive: Path, split: str, examples: list[dict[str, Any]], orders: int, output: Path
) -> list[np.ndarray]:
    """The image store of a split; returns the objects of its pictures as the dataset will see them."""
    visual_words, picture_objects = VisualWords(), []
    with new_folder(output.with_name(f"{output.name}.npz")) as folder:
        for example, k, pixels in pictures(archive, split, examples, orders):
            boxes = reorder(corners(example), k)
            words, shares = visual_words.of(pixels, boxes), boxes / CANVAS
            picture_objects.append(objects(words, shares))
            np.savez(
                folder / f"{split}-{example['identifier']}-{k}.npz",
                features=words,
                norm_bb=np.concatenate([shares, shares[:, 2:] - shares[:, :2]], 1),
                conf=np.ones(len(boxes), np.float16),
            )
    problem = convert_imgdir.write(
        argparse.Namespace(
            img_dir=output.with_name(f"{output.name}.npz"),
            output=output,
            nproc=1,
            compress=False,
            keep_all=False,
            conf_th=0.2,
            min_bb=1,
            max_bb=MAX_OBJECTS,
            num_bb=MAX_OBJECTS,
            skip_bad=False,
        )
    )
    if problem:
        raise InputError("no image store", file=output, found=problem)
    return picture_objects


def new_texts(path: Path, vocabulary: Vocabulary) -> TextWriter:
    """A text store of this vocabulary, to be written."""
    marks = {mark.strip("[]"): i for i, mark in enumerate(MARKS)}
    digest = hashlib.sha256("\n".join(vocabulary.words).encode()).hexdigest()
    meta = marks | {"v_range": [len(MARKS), len(vocabulary.words)], "tokenizer": "nlvr1", "vocab_sha256": digest}
    return TextWriter(path, meta)


def write_texts(path: Path, split: str, examples: list[dict[str, Any]], orders: int, vocabulary: Vocabulary) -> None:
    """The text store of some examples, one text a picture: "split-n-m-k"."""
    with new_texts(path, vocabulary) as store:
        for example in examples:
            for k in range(orders):
                id_ = f"{split}-{example['identifier']}-{k}"
                record = {"input_ids": vocabulary.read(example["sentence"]), "img_fname": f"{id_}.npz"}
                store.add(id_, record | {"target": int(example["label"] == "true")})


def write_statements(
    path: Path, count: int, examples: list[dict[str, Any]], picture_objects: list[np.ndarray], vocabulary: Vocabulary
) -> None:
    """The text store of `count` generated statements about the pictures of the examples.

    The text "said-n-1" has a picture the statement is true of, "said-n-0" one it is false of.
    """
    sentences = [vocabulary.decode(vocabulary.read(example["sentence"])) for example in examples]
    with new_texts(path, vocabulary) as store:
        for n, statement in enumerate(Statements(sentences, picture_objects).draw(count)):
            ids = vocabulary.encode(statement.words)
            for truth, row in ((1, statement.true_picture), (0, statement.false_picture)):
                image = f"train-{examples[row]['identifier']}-0.npz"
                store.add(f"said-{n}-{truth}", {"input_ids": ids, "img_fname": image, "target": truth})


def sentence_number(example: dict[str, Any]) -> str:
    """The number n of the example "n-m"."""
    number: str = example["identifier"].split("-")[0]
    return number


def held_out_numbers(examples: list[dict[str, Any]]) -> set[str]:
    """The numbers of the training sentences that nothing is trained on."""
    numbers = sorted({sentence_number(example) for example in examples}, key=int)
    order = generator("nlvr1 held out").permutation(len(numbers))
    return {numbers[i] for i in order[: max(1, round(HELD_OUT_SHARE * len(numbers)))]}


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(PrepareConfig, argv)
    data, output, vocabulary = Path(config.data), Path(config.output), Vocabulary()
    train, dev = read_examples(data / config.train), read_examples(data / "dev.json")
    held_out = held_out_numbers(train)
    train_pictures = data / "images_train_k0.zip"
    picture_objects = write_pictures(train_pictures, "train", train, orders=1, output=output / "img_db" / "train")
    write_pictures(data / "images_dev.zip", "dev", dev, orders=6, output=output / "img_db" / "dev")
    parts = {
        "train": [example for example in train if sentence_number(example) not in held_out],
        "held_out": [example for example in train if sentence_number(example) in held_out],
    }
    for name, examples in parts.items():
        write_texts(output / "txt_db" / f"{name}.db", "train", examples, orders=1, vocabulary=vocabulary)
    write_texts(output / "txt_db" / "dev.db", "dev", dev, orders=6, vocabulary=vocabulary)
    train_objects = [rows for example, rows in zip(train, picture_objects) if sentence_number(example) not in held_out]
    write_statements(
        output / "txt_db" / "statements.db",
        config.statements,
        parts["train"],
        picture_objects=train_objects,
        vocabulary=vocabulary,
    )
    Scale.fit(train_objects).save(output / "scale.npz")
    print(", ".join(f"{len(examples)} examples in {name}" for name, examples in (parts | {"dev": dev}).items()))


if __name__ == "__main__":
    exit_on_input_error(main)
