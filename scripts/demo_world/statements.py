"""NLVR2: is a sentence true of a pair of pictures?

A set is four pairs (m) and two sentences (k) said of all of them: both are true of one pair, neither of another, only
the first and only the second of the others. So every sentence is true as often as false. Pairs of which one sentence is
true and one false are the balanced part of a split, as in NLVR2: there the pictures alone say nothing either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from scripts.demo_world.claims import attributes, noun, one_attribute
from scripts.demo_world.gallery import Gallery
from scripts.demo_world.words import NUMBERS, article

MIX = {"side": 0.26, "both": 0.14, "any": 0.14, "neither": 0.1, "each": 0.14, "number": 0.1, "more": 0.12}
SIDES = ("left", "right")
DRAWN = 3000  # pairs among which to look for the four
TRIES = 30  # pairs of sentences to look at for such a set
Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Statement:
    """A sentence about a pair of pictures.

    `judge(left, right)`: for pictures (p,) of the gallery, whether it is true of each pair (bool) and which case the
    pair is (int). Pairs are drawn evenly over cases: what is false of "both" is as often true of one as of none.
    """

    text: str
    subject: dict[str, str]
    judge: Judge


def make_statement(gallery: Gallery, rng: np.random.Generator) -> Statement:
    """A statement of a kind drawn by `MIX`, about what some object of the gallery looks like."""
    kind = list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]
    if kind in ("each", "number", "more"):
        return {"each": _each, "number": _number, "more": _more}[kind](gallery, rng)
    subject, side = attributes(gallery.any_thing(rng), rng), int(rng.integers(2))
    has = gallery.count(**subject) > 0

    def judge(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = has[left], has[right]
        return {"side": (a, b)[side], "both": a & b, "any": a | b, "neither": ~(a | b)}[kind], 2 * a + b

    where = {"side": f"the {SIDES[side]} image contains", "both": "both images contain"}
    where |= {"any": "at least one image contains", "neither": "neither image contains"}
    return Statement(f"{where[kind]} {article(noun(subject, rng))}", subject, judge)


def _each(gallery: Gallery, rng: np.random.Generator) -> Statement:
    """Something in the left image and something else in the right one; or in either of them."""
    first, second = (attributes(gallery.any_thing(rng), rng) for _ in range(2))
    a, b = gallery.count(**first) > 0, gallery.count(**second) > 0
    what = article(noun(first, rng)), article(noun(second, rng))
    if rng.random() < 0.7:
        text = f"the left image contains {what[0]} and the right image contains {what[1]}"
        return Statement(text, first, lambda left, right: (a[left] & b[right], 2 * a[left] + b[right]))
    text = f"one image contains {what[0]} and the other image contains {what[1]}"

    def judge(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (a[left] & b[right]) | (a[right] & b[left]), 2 * (a[left] | a[right]) + (b[left] | b[right])

    return Statement(text, first, judge)


def _number(gallery: Gallery, rng: np.random.Generator) -> Statement:
    subject, side, n = one_attribute(gallery.any_thing(rng), rng), int(rng.integers(2)), int(rng.integers(1, 4))
    count = gallery.count(**subject)
    text = f"the {SIDES[side]} image contains exactly {NUMBERS[n]} {noun(subject, rng, many=n > 1)}"

    def judge(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = count[(left, right)[side]]
        return there == n, there.clip(0, 4)

    return Statement(text, subject, judge)


def _more(gallery: Gallery, rng: np.random.Generator) -> Statement:
    subject, side = one_attribute(gallery.any_thing(rng), rng), int(rng.integers(2))
    count = gallery.count(**subject)
    text = (
        f"there are more {noun(subject, rng, many=True)} in the {SIDES[side]} image than in the {SIDES[1 - side]} image"
    )

    def judge(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        difference = (count[left] - count[right]) * (1, -1)[side]
        return difference > 0, np.sign(difference)

    return Statement(text, subject, judge)


def statements(gallery: Gallery, rng: np.random.Generator, n: int, split: str) -> list[dict[str, Any]]:
    """About `n` examples, eight a set: `identifier`, `sentence`, `label`, `balanced`, `subject` and `pair`, two indexes
    into the gallery."""
    made: list[dict[str, Any]] = []
    for number in range(n // 8):
        told, pairs = _set(gallery, rng)
        for m, (labels, pair) in enumerate(pairs):
            for k, statement in enumerate(told):
                ids = {"identifier": f"{split}-{number}-{m}-{k}", "sentence": statement.text, "label": str(labels[k])}
                about = {"subject": noun(statement.subject, rng), "balanced": labels[0] != labels[1], "pair": pair}
                made.append(ids | about)
    return made


def _set(
    gallery: Gallery, rng: np.random.Generator
) -> tuple[list[Statement], list[tuple[tuple[bool, bool], tuple[int, int]]]]:
    """Two statements, and in any order four pairs with the statements' labels; none where nothing fits."""
    for _ in range(TRIES):
        told = [make_statement(gallery, rng) for _ in range(2)]
        # Pictures that show what is spoken of are rare: two thirds are drawn among them.
        pools = [np.arange(len(gallery)), *(np.flatnonzero(gallery.count(**t.subject)) for t in told)]
        left, right = (np.concatenate([rng.choice(pool, DRAWN // 3) for pool in pools]) for _ in range(2))
        right = rng.permutation(right)
        left, right = left[left != right], right[left != right]
        (true_1, case_1), (true_2, case_2) = (t.judge(left, right) for t in told)
        pairs = []
        for labels in product((True, False), repeat=2):
            fits = np.flatnonzero((true_1 == labels[0]) & (true_2 == labels[1]))
            if not len(fits):
                break
            cases = 100 * case_1[fits] + case_2[fits]
            fits = fits[cases == rng.choice(np.unique(cases))]
            at = fits[rng.integers(len(fits))]
            pairs.append((labels, (int(left[at]), int(right[at]))))
        if len(pairs) == 4 and told[0].text != told[1].text:
            return told, [pairs[k] for k in rng.permutation(4)]
    return [], []
