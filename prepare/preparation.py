"""Steps that all subcommands of `prepro.py` share: selection of texts, word pieces, image keys, counts."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from prepare.annotations import Text
from prepare.image_lists import image_list
from prepare.image_names import ImageNames
from prepare.left_out import bad_entry, first_bad
from prepare.tokenizer import WordPiece
from utils.errors import InputError

INCLUDED, EXCLUDED, ABSENT = "--image_list", "--exclude_images", "--missing_imgs"  # options that name a list of images
BY_LIST, EMPTY, MISSING = "by the image lists", "without words", "with missing images"  # reasons to leave a text out

MOST_UNKNOWN = 5  # per cent of [UNK] without a warning


@dataclass(kw_only=True)
class Counts:
    """Numbers of texts read, kept and left out, and of word pieces."""

    texts: int = 0  # in the annotation files
    records: int = 0  # in the store
    exclusions: Counter[str] = field(default_factory=lambda: Counter({BY_LIST: 0, EMPTY: 0}))  # texts by reason
    pieces: int = 0  # word pieces of all records
    max_pieces: int = 0  # word pieces of the longest record
    unknown_pieces: int = 0

    def report(self, output: str, images: int, unknown_words: Sequence[str]) -> None:
        """Print a summary of the store `output`; `images`: how many images its records name."""
        print(f"{output}: {self.records:,} of {self.texts:,} texts, of {images:,} images")
        print("  left out: " + ", ".join(f"{count:,} {reason}" for reason, count in self.exclusions.items()))
        share = 100 * self.unknown_pieces / self.pieces
        mean = self.pieces / self.records
        print(f"  word pieces: {mean:.1f} a text, {self.max_pieces} in the longest, {share:.2f} % [UNK]")
        if share > MOST_UNKNOWN:
            print(
                f"WARNING: {share:.1f} % of the word pieces are [UNK], which the vocabulary does not know, such as "
                f"{' '.join(unknown_words)}. Look at the language and the capital letters of these words, at --vocab "
                "and at --do_lower_case"
            )


class Preparation:
    """Selects texts by the shared options of `prepro.py` and makes the fields that every record has.

    Attributes: `output` (folder of the store), `tokenizer`, `names` (the image keys), `counts`.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        img_name: str,
        split: str | None = None,
    ):
        """Read the vocabulary and the image lists that the command line `args` names.

        `img_name`: the dataset's format of image keys; `--img_name` overrides it. `split`: see `ImageNames`.
        """
        self.output: str = args.output
        self.tokenizer = WordPiece(args.vocab, args.do_lower_case)
        print(f"vocabulary {self.tokenizer.name}: {self.tokenizer.settings.describe()}")
        self.names = ImageNames(args.img_name or img_name, split)
        self.counts = Counts()
        self._options = vars(args)
        self._skip_empty: bool = args.skip_empty
        options = {option: vars(args).get(option.strip("-")) for option in (INCLUDED, EXCLUDED, ABSENT)}
        self._lists = {option: image_list(path, option, option == ABSENT) for option, path in options.items() if path}
        self._text_ids: set[str] = set()
        self._picture_keys: set[str] = set()

    def records(
        self, texts: Iterable[Text], encode: Callable[[Text], dict[str, Any]] | None = None
    ) -> Iterator[tuple[Text, dict[str, Any]]]:
        """Yield each selected text with its record: `text.fields`, word pieces and `img_fname`.

        `encode` makes the word-piece fields of a text. Default: `input_ids` of `text.text`. `InputError` for an id that
        occurs twice, for a text without words, and if no text is left.
        """
        for text in tqdm(texts, desc="texts", unit="", unit_scale=True, disable=None):
            self.counts.texts += 1
            with bad_entry(f"id {text.id}"):
                if record := self._record(text, encode):
                    yield text, record
        if not self.counts.records:
            exclusions = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.exclusions.items())
            raise InputError(
                "no text is left after selection",
                file=", ".join(self._source_files()) or None,
                found="; ".join(
                    [f"{self.counts.texts:,} texts read; left out: {exclusions}"]
                    + [images.summary() for images in self._lists.values()]
                    + ([first] if (first := first_bad()) else [])
                ),
                remedy="repair the bad items" if first else "check the annotation files and the lists of images",
            )
        if EXCLUDED in self._lists:
            self._lists[EXCLUDED].check_matched()

    def _source_files(self) -> list[str]:
        """The annotation files that the command line names."""
        values = [self._options.get(key) or [] for key in ("annotations", "jsonl", "questions", "karpathy", "refs")]
        return [str(file) for value in values for file in ([value] if isinstance(value, str) else value)]

    def _record(self, text: Text, encode: Callable[[Text], dict[str, Any]] | None) -> dict[str, Any] | None:
        """The record of a text, counted; None for a text that the options leave out."""
        if text.id in self._text_ids:
            raise InputError(
                "an id occurs twice", file=text.source, key=f"id {text.id}", remedy="give every text its own id"
            )
        self._text_ids.add(text.id)
        if reason := self._exclusion_reason(text):
            self.counts.exclusions[reason] += 1
            return None
        piece_fields = encode(text) if encode else {"input_ids": self.tokenizer.encode(text.text)}
        if self._is_empty(text, piece_fields):
            self.counts.exclusions[EMPTY] += 1
            return None
        keys = self.names.img_fname(text)
        self._count(piece_fields)
        self._picture_keys.update([keys] if isinstance(keys, str) else keys)
        return (text.fields or {}) | piece_fields | {"img_fname": keys}

    def _exclusion_reason(self, text: Text) -> str | None:
        """Why the images of a text exclude it, or None. A text needs all of its images."""
        pictures = text.pictures()
        hits = {
            option: [images.has(picture, self.names.name) for picture in pictures]
            for option, images in self._lists.items()
        }
        if any(hits.get(EXCLUDED, ())) or not all(hits.get(INCLUDED, ())):
            return BY_LIST
        return MISSING if any(hits.get(ABSENT, ())) else None

    def _is_empty(self, text: Text, piece_fields: dict[str, Any]) -> bool:
        """Whether a list of word pieces is empty; an empty one is an `InputError` without `--skip_empty`."""
        if all(piece_lists(piece_fields)):
            return False
        if self._skip_empty:
            return True
        raise InputError(
            "the file has a text without words",
            file=text.source,
            key=f"id {text.id}",
            found=repr(text.text),
            remedy="correct the text, or leave such texts out with --skip_empty",
        )

    def _count(self, piece_fields: dict[str, Any]) -> None:
        lists = piece_lists(piece_fields)
        pieces = sum(map(len, lists))
        self.counts.records += 1
        self.counts.pieces += pieces
        self.counts.max_pieces = max(self.counts.max_pieces, pieces)
        self.counts.unknown_pieces += sum(ids.count(self.tokenizer.unk) for ids in lists)

    def meta(self) -> dict[str, Any]:
        """The contents of meta.json: the command's arguments and the tokeniser, under the release's keys."""
        return {key: value for key, value in self._options.items() if key != "vocab"} | self.tokenizer.meta()

    def report(self) -> None:
        """Print a summary of the store: texts kept and left out, images, word pieces."""
        self.counts.report(self.output, len(self._picture_keys), self.tokenizer.unknown_words)
        for images in self._lists.values():
            print(f"  {images.summary()}")


def piece_lists(piece_fields: dict[str, Any]) -> list[list[int]]:
    """All lists of word pieces of a record: `input_ids`, and each of VCR's answers and rationales."""
    lists: list[list[int]] = []
    for value in piece_fields.values():
        lists += value if value and isinstance(value[0], list) else [value]
    return lists
