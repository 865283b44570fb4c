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
CORRECTIONS = {
    **{"atleast": "at least", "tleast": "at least", "leats": "least", "lest": "least", "lease": "least"},
    **{"ll": "all", "al": "all", "isa": "is a", "ia": "is a", "abox": "a box", "ablue": "a blue", "bo": "box"},
    **{"ble": "blue", "bow": "box", "colour": "color", "colours": "colors", "coloured": "color", "opis": "top is"},
    **{"exacts": "exactly", "thee": "three", "tow": "two", "wth": "with", "bellow": "below", "ad": "and", "t": ""},
    **{"ans": "and", "hte": "the", "od": "of", "adge": "edge", "egde": "edge", "nealy": "nearly"},
}
# Two sentences that differ in these words alone were meant alike by their writers.
SYNONYMS = (("item", "object"), ("items", "objects"), ("edge", "wall"))
# With one of them in it, a sentence's numbers do not order its truth.
NON_MONOTONE_WORDS = {"not", "no", "only", "same", "all", "each", "every", "none"}


class Vocabulary:
    """Words by id: `vocab.txt`, one a line, marks first."""

    def __init__(self) -> None:
        self.words = Path(__file__).with_name("vocab.txt").read_text().split()
        assert tuple(self.words[: len(MARKS)]) == MARKS
        self.ids = {word: i for i, word in enumerate(self.words)}

    def read(self, sentence: str) -> list[int]:
        """Word ids of a sentence as it was written."""
        tokens = [DIGITS.get(token, token) for token in re.findall("[a-z]+|[0-9]", sentence.lower())]
        return self.encode([word for token in tokens for word in CORRECTIONS.get(token, token).split()])

    def encode(self, words: list[str]) -> list[int]:
        """The ids of words; an unknown word gets the id of the nearest known one."""
        return [self._nearest(word) for word in words]

    def decode(self, ids: list[int]) -> list[str]:
        """The words of ids."""
        return [self.words[i] for i in ids]

    @cache  # noqa: B019  (one vocabulary a process)
    def _nearest(self, word: str) -> int:
        matches = [word] if word in self.ids else difflib.get_close_matches(word, self.words[len(MARKS) :], 1, 0.75)
        return self.ids[matches[0] if matches else "[UNK]"]


def rewrite(words: list[str], label: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """A sentence that is true (label 1) or false of the same picture for the same reason, in other words."""
    for pair in SYNONYMS:
        if rng.random() < 0.3:
            swap = dict(zip(pair, pair[::-1]))
            words = [swap.get(word, word) for word in words]
    for filler in ("closely", "grey"):  # every touch is close, every box is grey
        if rng.random() < 0.25:
            words = [word for word in words if word != filler]
    negation = _negate(words, rng)
    if negation is not None:
        return negation, 1 - label
    return _other_number(words, label, rng) or (words, label)


def _negate(words: list[str], rng: np.random.Generator) -> list[str] | None:
    """ "There is a …" ↔ "there is no …", in some of the cases, else None."""
    chance, rest = rng.random(), None
    for start in (["there", "is", "a"], ["there", "is", "at", "least", "one"]):
        if words[: len(start)] == start:
            rest = words[len(start) :]
    if rest is not None and chance < 0.3:
        return ["there", "is", "no", *rest]
    if words[:3] == ["there", "is", "no"] and chance < 0.5:
        return ["there", "is", "a", *words[3:]]
    return None


def _other_number(words: list[str], label: int, rng: np.random.Generator) -> tuple[list[str], int] | None:
    """Another number in "exactly k" or "at least k" of which the truth is known, in some of the cases, else None."""
    if NON_MONOTONE_WORDS & set(words):
        return None
    for i, number in enumerate(words[1:], 1):
        exact = words[i - 1] == "exactly"
        at_least = words[max(i - 2, 0) : i] == ["at", "least"]
        if number not in NUMBERS or not (exact or at_least) or rng.random() < 0.4:
            continue
        prefix, suffix = words[: i - 1 if exact else i - 2], words[i + 1 :]
        of_picture = len(prefix) == 2 and prefix[0] == "there"
        choices = _implied_numbers(exact, label, NUMBERS.index(number), of_picture=of_picture)
        if choices:
            phrase, k, truth = choices[rng.integers(len(choices))]
            return [*prefix, *phrase, NUMBERS[k], *suffix], truth
    return None


def _implied_numbers(exact: bool, label: int, k: int, of_picture: bool) -> list[tuple[tuple[str, ...], int, int]]:
    """(phrase, index of its number, truth) that follow from "exactly" or "at least" number k being true or false.

    `of_picture`: the sentence says how many there are of something in the whole picture. Otherwise the number describes
    one of its panels, and that another number is false of that panel says nothing of the others.
    """
    exactly, at_least = ("exactly",), ("at", "least")
    numbers: list[tuple[tuple[str, ...], int, int]] = []
    if label:
        numbers += [(at_least, j, 1) for j in range(k + 1)]
        if of_picture:
            numbers += [(exactly, j, 0) for j in range(max(0, k - 2), k)]
        if of_picture and exact:
            numbers += [
                (phrase, j, 0) for j in range(k + 1, min(len(NUMBERS), k + 3)) for phrase in (exactly, at_least)
            ]
    elif not exact:
        numbers += [(phrase, j, 0) for j in range(k, min(len(NUMBERS), k + 3)) for phrase in (exactly, at_least)]
    return numbers
