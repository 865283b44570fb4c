"""NLVR2's task on the demo world: sentences that are true or false of a pair of pictures.

A set has two sentences (k) and four pairs of pictures (m), and every sentence is judged for every pair. Both sentences
are true of one pair, none of another, only the first of a third, only the second of the fourth. So every sentence is
true as often as false. The pairs for which one sentence is true and one is false are the balanced part of a split, as
in NLVR2: there, the pictures alone do not tell the label either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from scripts.demo_world.claims import noun_phrase, pick_attribute, pick_attributes
from scripts.demo_world.gallery import Gallery
from scripts.demo_world.words import NUMBERS, article

MIX = {"side": 0.26, "both": 0.14, "any": 0.14, "neither": 0.1, "each": 0.14, "number": 0.1, "more": 0.12}
SIDES = ("left", "right")
N_PAIRS = 3000  # pairs of pictures to search for the four of a set
TRIES = 30  # pairs of sentences to try for a set
Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Statement:
    """A sentence about a pair of pictures.

    `judge(left, right)`: for pictures (p,) of the gallery, whether the sentence is true of each pair (bool), and which
    case the pair is (int). Pairs are drawn evenly over the cases: a false "both" is as often true of one picture as of
    none.
    """

    text: str
    subject: dict[str, str]
    judge: Judge


def make_statement(gallery: Gallery, rng: np.random.Generator) -> Statement:
    """Draw a statement. Its kind has the probabilities `MIX`; its attributes are those of a random object."""
    kind = list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]
    if kind in ("each", "number", "more"):
        return {"each": _each, "number": _number, "more": _more}[kind](gallery, rng)
    subject, side = pick_attributes(gallery.any_thing(rng), rng), int(rng.integers(2))
    has = gallery.count(**subject) > 0

    def judge(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = has[left], has[right]
        return {"side": (a, b)[side], "both": a & b, "any": a | b, "neither": ~(a | b)}[kind], 2 * a + b

    beginnings = {"side": f"the {SIDES[side]} image contains", "both": "both images contain"}
    beginnings |= {"any": "at least one image contains", "neither": "neither image contains"}
    return Statement(f"{beginnings[kind]} {article(noun_phrase(subject, rng))}", subject, judge)


def _each(gallery: Gallery, rng: np.random.Generator) -> Statement:
    """A statement about one object in the left picture and another in the right one, or in either order."""
    first, second = (pick_attributes(gallery.any_thing(rng), rng) for _ in range(2))
    a, b = gallery.count(**first) > 0, gallery.count(**second) > 0
    one, other = article(noun_phrase(first, rng)), article(noun_phrase(second, rng))
    if rng.random() < 0.7:
        text = f"the left image contains {one} and the right image contains {other}"
        return Statement(text, first, lambda left, right: (a[left] & b[right], 2 * a[left] + b[right]))
    text = f"one image contains {one} and the other image contains {other}"

    def judge(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (a[left] & b[right]) | (a[right] & b[left]), 2 * (a[left] | a[right]) + (b[left] | b[right])

    return Statement(text, first, judge)


def _number(gallery: Gallery, rng: np.random.Generator) -> Statement:
    subject, side, n = pick_attribute(gallery.any_thing(rng), rng), int(rng.integers(2)), int(rng.integers(1, 4))
    counts = gallery.count(**subject)
    text = f"the {SIDES[side]} image contains exactly {NUMBERS[n]} {noun_phrase(subject, rng, many=n > 1)}"

    def judge(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_things = counts[(left, right)[side]]
        return n_things == n, n_things.clip(0, 4)

    return Statement(text, subject, judge)


def _more(gallery: Gallery, rng: np.random.Generator) -> Statement:
    subject, side = pick_attribute(gallery.any_thing(rng), rng), int(rng.integers(2))
    counts = gallery.count(**subject)
    one, other, things = SIDES[side], SIDES[1 - side], noun_phrase(subject, rng, many=True)
    text = f"there are more {things} in the {one} image than in the {other} image"

    def judge(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        difference = (counts[left] - counts[right]) * (1, -1)[side]
        return difference > 0, np.sign(difference)

    return Statement(text, subject, judge)


def statements(gallery: Gallery, rng: np.random.Generator, n: int, split: str) -> list[dict[str, Any]]:
    """Make about `n` examples, eight per set.

    Fields: `identifier`, `sentence`, `label`, `balanced`, `subject`, and `pair`, two indexes into the gallery.
    """
    examples: list[dict[str, Any]] = []
    for number in range(n // 8):
        two, pairs = _make_set(gallery, rng)
        for m, (labels, pair) in enumerate(pairs):
            for k, statement in enumerate(two):
                identifier, subject = f"{split}-{number}-{m}-{k}", noun_phrase(statement.subject, rng)
                example: dict[str, Any] = {
                    "identifier": identifier,
                    "sentence": statement.text,
                    "label": str(labels[k]),
                }
                example |= {"subject": subject, "balanced": labels[0] != labels[1], "pair": pair}
                examples.append(example)
    return examples


def _make_set(
    gallery: Gallery, rng: np.random.Generator
) -> tuple[list[Statement], list[tuple[tuple[bool, bool], tuple[int, int]]]]:
    """Two statements, and four pairs in random order with the labels of both statements; empty if none was found."""
    for _ in range(TRIES):
        two = [make_statement(gallery, rng) for _ in range(2)]
        # Pictures that show the subjects of the statements are rare, so two thirds are drawn from them.
        pools = [np.arange(len(gallery)), *(np.flatnonzero(gallery.count(**t.subject)) for t in two)]
        left, right = (np.concatenate([rng.choice(pool, N_PAIRS // 3) for pool in pools]) for _ in range(2))
        right = rng.permutation(right)
        left, right = left[left != right], right[left != right]
        (true_1, case_1), (true_2, case_2) = (t.judge(left, right) for t in two)
        pairs = []
        for labels in product((True, False), repeat=2):
            fits = np.flatnonzero((true_1 == labels[0]) & (true_2 == labels[1]))
            if not len(fits):
                break
            cases = 100 * case_1[fits] + case_2[fits]
            fits = fits[cases == rng.choice(np.unique(cases))]
            index = fits[rng.integers(len(fits))]
            pairs.append((labels, (int(left[index]), int(right[index]))))
        if len(pairs) == 4 and two[0].text != two[1].text:
            return two, [pairs[k] for k in rng.permutation(4)]
    return [], []
