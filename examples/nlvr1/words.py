"""The sentences of NLVR: their words, and rewritings whose truth follows from the sentence's own.

A sentence is a list of words of `vocab.txt`: lower case, digits spelt out, typing errors mended where a word is near.
"""

import difflib
import re
from functools import cache
from pathlib import Path

import numpy as np

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")
DIGITS = {str(i + 1): word for i, word in enumerate(NUMBERS)}
MENDED = {
    **{"atleast": "at least", "tleast": "at least", "leats": "least", "lest": "least", "lease": "least"},
    **{"ll": "all", "al": "all", "isa": "is a", "ia": "is a", "abox": "a box", "ablue": "a blue", "bo": "box"},
    **{"ble": "blue", "bow": "box", "colour": "color", "colours": "colors", "coloured": "color", "opis": "top is"},
    **{"exacts": "exactly", "thee": "three", "tow": "two", "wth": "with", "bellow": "below", "ad": "and", "t": ""},
    **{"ans": "and", "hte": "the", "od": "of", "adge": "edge", "egde": "edge", "nealy": "nearly"},
}
# Two sentences that differ in these words alone were meant alike by their writers.
ALIKE = (("item", "object"), ("items", "objects"), ("edge", "wall"))
# With one of them in it, a sentence's numbers do not order its truth.
NOT_MONOTONE = {"not", "no", "only", "same", "all", "each", "every", "none"}


class Vocabulary:
    """Words by id: `vocab.txt`, one a line, marks first."""

    def __init__(self) -> None:
        self.words = Path(__file__).with_name("vocab.txt").read_text().split()
        assert tuple(self.words[: len(MARKS)]) == MARKS
        self.ids = {word: i for i, word in enumerate(self.words)}

    def read(self, sentence: str) -> list[int]:
        """Word ids of a sentence as it was written."""
        spelt = [DIGITS.get(word, word) for word in re.findall("[a-z]+|[0-9]", sentence.lower())]
        return self.encode([word for text in spelt for word in MENDED.get(text, text).split()])

    def encode(self, words: list[str]) -> list[int]:
        return [self._nearest(word) for word in words]

    def decode(self, ids: list[int]) -> list[str]:
        return [self.words[i] for i in ids]

    @cache  # noqa: B019  (one vocabulary a process)
    def _nearest(self, word: str) -> int:
        near = [word] if word in self.ids else difflib.get_close_matches(word, self.words[len(MARKS) :], 1, 0.75)
        return self.ids[near[0] if near else "[UNK]"]


def rewrite(words: list[str], label: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """A sentence that is true (label 1) or false of the same picture for the same reason, in other words."""
    for pair in ALIKE:
        if rng.random() < 0.3:
            swap = dict(zip(pair, pair[::-1]))
            words = [swap.get(word, word) for word in words]
    for filler in ("closely", "grey"):  # every touch is close, every box is grey
        if rng.random() < 0.25:
            words = [word for word in words if word != filler]
    negated = _negate(words, rng)
    if negated is not None:
        return negated, 1 - label
    return _other_number(words, label, rng) or (words, label)


def _negate(words: list[str], rng: np.random.Generator) -> list[str] | None:
    """ "There is a …" ↔ "there is no …", in some of the cases, else None."""
    drawn, rest = rng.random(), None
    for start in (["there", "is", "a"], ["there", "is", "at", "least", "one"]):
        if words[: len(start)] == start:
            rest = words[len(start) :]
    if rest is not None and drawn < 0.3:
        return ["there", "is", "no", *rest]
    if words[:3] == ["there", "is", "no"] and drawn < 0.5:
        return ["there", "is", "a", *words[3:]]
    return None


def _other_number(words: list[str], label: int, rng: np.random.Generator) -> tuple[list[str], int] | None:
    """Another number in "exactly k" or "at least k" of which the truth is known, in some of the cases, else None."""
    if NOT_MONOTONE & set(words):
        return None
    for i, number in enumerate(words[1:], 1):
        exact = words[i - 1] == "exactly"
        least = words[max(i - 2, 0) : i] == ["at", "least"]
        if number not in NUMBERS or not (exact or least) or rng.random() < 0.4:
            continue
        before, after = words[: i - 1 if exact else i - 2], words[i + 1 :]
        known = _known(exact, label, NUMBERS.index(number), outer=len(before) == 2 and before[0] == "there")
        if known:
            phrase, k, truth = known[rng.integers(len(known))]
            return [*before, *phrase, NUMBERS[k], *after], truth
    return None


def _known(exact: bool, label: int, k: int, outer: bool) -> list[tuple[tuple[str, ...], int, int]]:
    """(phrase, place of its number, truth) that follow from "exactly" or "at least" number k being true or false.

    `outer`: the sentence says how many there are of something in the whole picture. Otherwise the number describes one
    of its panels, and that another number is false of that panel says nothing of the others.
    """
    exactly, at_least = ("exactly",), ("at", "least")
    found: list[tuple[tuple[str, ...], int, int]] = []
    if label:
        found += [(at_least, j, 1) for j in range(k + 1)]
        if outer:
            found += [(exactly, j, 0) for j in range(max(0, k - 2), k)]
        if outer and exact:
            found += [(phrase, j, 0) for j in range(k + 1, min(len(NUMBERS), k + 3)) for phrase in (exactly, at_least)]
    elif not exact:
        found += [(phrase, j, 0) for j in range(k, min(len(NUMBERS), k + 3)) for phrase in (exactly, at_least)]
    return found
