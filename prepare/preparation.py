"""What all of `prepro.py` does with texts, whatever their dataset: which are kept, word pieces, pictures, counts."""

import argparse
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from prepare import annotations as read
from prepare.image_names import ImageNames
from prepare.tokenizer import WordPiece
from utils.errors import InputError

OTHER, EMPTY, MISSING = "by the image lists", "without words", "of missing pictures"


@dataclass
class Counts:
    """What happened to the texts; `left_out` by reason."""

    read: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=lambda: Counter({OTHER: 0, EMPTY: 0}))
    pieces: int = 0
    longest: int = 0
    unknown: int = 0

    def report(self, output: str, images: int) -> None:
        """Print one paragraph."""
        print(f"{output}: {self.kept:,} of {self.read:,} texts, of {images:,} images")
        print("  left out: " + ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items()))
        share = 100 * self.unknown / self.pieces
        mean = self.pieces / self.kept
        print(f"  word pieces: {mean:.1f} a text, {self.longest} in the longest, {share:.2f} % [UNK]")


class Preparation:
    """Keeps or leaves out texts by the shared options, and makes the fields that every record has.

    Attributes: `tokenizer`, `names`, `counts`. `missing`: keys of pictures whose texts are left out.
    """

    def __init__(
        self, args: argparse.Namespace, img_name: str, split: str | None = None, missing: Collection[str] = ()
    ):
        """`img_name`: the dataset's own rule, which `--img_name` goes before; `split`: for ImageNames."""
        self.args, self.missing = args, missing
        self.tokenizer = WordPiece(args.vocab, args.do_lower_case)
        self.names = ImageNames(args.img_name or img_name, split)
        self.counts = Counts()
        self._wanted = read.image_list(args.image_list) if args.image_list else None
        self._unwanted = read.image_list(args.exclude_images) if args.exclude_images else read.ImageList()
        self._seen: set[str] = set()
        self._pictures: set[str] = set()

    def records(
        self, texts: Iterable[read.Text], pieces: Callable[[read.Text], dict[str, Any]] | None = None
    ) -> Iterator[tuple[read.Text, dict[str, Any]]]:
        """The texts that are kept, with the fields of `text.fields` and those every dataset has.

        `pieces` makes the fields of word pieces, `input_ids` and maybe others; without it, `input_ids` of `text.text`.
        """
        for text in tqdm(texts, desc="texts", unit="", unit_scale=True, disable=None):
            self.counts.read += 1
            if text.id in self._seen:
                raise InputError("an id stands twice", file=text.source, key=f"id {text.id}")
            self._seen.add(text.id)
            if reason := self._reason(text):
                self.counts.left_out[reason] += 1
                continue
            made = pieces(text) if pieces else self._pieces(text)
            if self._empty(text, made):
                self.counts.left_out[EMPTY] += 1
                continue
            self._count(made)
            keys = self.names.field(text)
            self._pictures.update([keys] if isinstance(keys, str) else keys)
            yield text, (text.fields or {}) | made | {"img_fname": keys}
        if not self.counts.kept:
            left = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.left_out.items())
            raise InputError("no text is left", found=f"{self.counts.read:,} read; left out: {left}")

    def _pieces(self, text: read.Text) -> dict[str, Any]:
        return {"input_ids": self.tokenizer.encode(text.text)}

    def _reason(self, text: read.Text) -> str | None:
        """Why a text is left out, if for its pictures: it needs all of them."""
        pictures = text.pictures()
        if any(picture in self._unwanted for picture in pictures):
            return OTHER
        if self._wanted is not None and not all(picture in self._wanted for picture in pictures):
            return OTHER
        if self.missing and any(self.names.name(picture) in self.missing for picture in pictures):
            return MISSING
        return None

    def _empty(self, text: read.Text, made: dict[str, Any]) -> bool:
        if all(_lists(made)):
            return False
        if self.args.skip_empty:
            return True
        raise InputError(
            "a text without words",
            file=text.source,
            key=f"id {text.id}",
            found=repr(text.text),
            remedy="complete it, or leave such texts out with --skip_empty",
        )

    def _count(self, made: dict[str, Any]) -> None:
        found = _lists(made)
        n = sum(map(len, found))
        self.counts.kept += 1
        self.counts.pieces += n
        self.counts.longest = max(self.counts.longest, n)
        self.counts.unknown += sum(ids.count(self.tokenizer.unk) for ids in found)

    def meta(self) -> dict[str, Any]:
        """meta.json: the command's arguments and the tokeniser, under the release's keys."""
        return {key: value for key, value in vars(self.args).items() if key != "vocab"} | self.tokenizer.meta()

    def report(self) -> None:
        """Print what happened."""
        self.counts.report(self.args.output, len(self._pictures))


def _lists(made: dict[str, Any]) -> list[list[int]]:
    """Every list of word pieces: `input_ids`, and VCR's choices one by one."""
    found: list[list[int]] = []
    for value in made.values():
        found += value if value and isinstance(value[0], list) else [value]
    return found
