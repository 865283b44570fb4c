"""Signs that the texts of a store were prepared in another way than its readers expect.

Texts are word pieces alone: readers add [CLS], [SEP] and [MASK] themselves, and batches need no padding.
"""

from collections.abc import Iterator
from typing import Any

from utils.errors import InputError

NEARLY_ALL = 0.9  # the share of texts with a token that only readers add, from which a store is refused
MANY = 0.05  # the share of such texts, and of [UNK] among word pieces, above which it is said


def token_lists(record: dict[str, Any]) -> Iterator[Any]:
    """The lists of word pieces of a record: the text and, for VCR, its answers and rationales. They are not checked."""
    yield record["input_ids"]
    for name in ("input_ids_as", "input_ids_rs"):
        choices = record.get(name, ())
        yield from choices if isinstance(choices, list | tuple) else [choices]


class TextSigns:
    """Counts of odd tokens over the lists of word pieces of records, which `add` takes one after the other."""

    def __init__(self, cls: int, sep: int, mask: int, unk: int | None, first_word: int):
        """The ids of special tokens, and that of the first ordinary word piece."""
        self.ends, self.mask, self.unk = (cls, sep), mask, unk
        self.padding = None if 0 in (cls, sep, mask, unk) or first_word == 0 else 0
        self.lists = self.framed = self.masked = self.padded = 0  # lists of word pieces: all, with such tokens
        self.tokens = self.unknown = 0  # word pieces: all, [UNK]

    def add(self, record: dict[str, Any]) -> None:
        """Count the word pieces of a record, which must be well formed."""
        for ids in token_lists(record):
            if not ids:
                continue
            end = len(ids)
            while end and ids[end - 1] == self.padding:
                end -= 1
            self.lists += 1
            self.padded += end < len(ids)
            self.framed += ids[0] == self.ends[0] or ids[end - 1] == self.ends[1]
            self.masked += self.mask in ids
            self.tokens += end
            self.unknown += ids.count(self.unk)

    def check(self, file: Any) -> None:
        """`InputError` when nearly all texts hold tokens that readers add. `file`: what they are in."""
        for count, sign in ((self.framed, "begin with [CLS] or end with [SEP]"), (self.masked, "hold [MASK]")):
            if self.lists and count >= NEARLY_ALL * self.lists:
                raise InputError(
                    "the texts hold special tokens, which would then be there twice",
                    file=file,
                    key="input_ids",
                    found=f"{count:,} of {self.lists:,} texts {sign}",
                    expected="word pieces alone: [CLS], [SEP] and [MASK] are added when a text is read",
                    remedy="prepare the store with prepro.py, or without special tokens (add_special_tokens=False)",
                )

    def warnings(self) -> list[str]:
        """Sentences about what is odd, but may be right."""
        special, odd = max(self.framed, self.masked), []
        if special > MANY * self.lists:
            odd.append(f"{special:,} of {self.lists:,} texts hold [CLS], [SEP] or [MASK], which readers add themselves")
        if self.padded:
            odd.append(f"{self.padded:,} of {self.lists:,} texts end with 0, as if padded; padding is learned as text")
        if self.unknown > MANY * self.tokens:
            share = f"{self.unknown / self.tokens:.0%} of {self.tokens:,} word pieces are [UNK]"
            odd.append(f"{share}: look at the vocabulary, its language and its case")
        return odd
