"""VQA questions about a scene, with the answers of ten annotators. About half need relations, counts or comparisons.

Answers are balanced within every question type, and the wording of a question fits every answer. So a model that sees
no picture stays near the prior of the type.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from scripts.demo_world.captions import EXTREMES, MIN_GAP, RELATIONS, count
from scripts.demo_world.scene import COLORS, SHAPES, TEXTURES, Scene, Thing
from scripts.demo_world.words import article, plural, say

T = TypeVar("T")

# How often each type is tried. Some scenes allow no question of a type, so the final shares differ. The first four
# types need one object; the others, 51 % of all questions, need several.
MIX = {
    "is there a": 0.135,
    "what color is the": 0.205,
    "what shape is the": 0.14,
    "what pattern is on the": 0.08,
    "how many": 0.155,
    "what color is at the": 0.095,
    "is the _ beside the": 0.09,
    "are there more": 0.06,
    "is the _ bigger than": 0.03,
    "do they share a color": 0.01,
}
COMPLEX = tuple(MIX)[4:]
HUMAN_SYNONYMS = {"purple": "violet", "circle": "disc", "ring": "hoop", "square": "box", "plain": "solid"}


@dataclass(frozen=True)
class Question:
    """A question, its right answer and its type (a key of `MIX`)."""

    type: str
    text: str
    answer: str

    @property
    def answer_type(self) -> str:
        """VQA's answer type: yes/no, number or other."""
        if self.answer in ("yes", "no"):
            return "yes/no"
        return "number" if self.answer.isdigit() else "other"


class Asker:
    """Makes questions about one scene after another; it prefers the answers that were rarest so far."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {question_type: Counter() for question_type in MIX}

    def ask(self, scene: Scene, rng: np.random.Generator, n: int) -> list[Question]:
        """Make up to `n` different questions about a scene."""
        questions: dict[str, Question] = {}
        for _ in range(60 * n):
            if len(questions) == n:
                break
            question_type = list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]
            counts = self.counts[question_type]
            candidates = {q.answer: q for q in _CANDIDATES[question_type](scene, rng)}  # one question per answer
            candidates = {a: q for a, q in candidates.items() if q.text not in questions}
            if candidates:
                rarest = min(candidates, key=lambda answer: (counts[answer], answer))
                question = candidates[rarest]
                # If even the rarest answer is too frequent, most scenes do not allow the others: skip it.
                even = sum(counts.values()) / len(_ANSWERS[question_type])
                if counts[rarest] <= 1.15 * even + 3:
                    questions[question.text] = question
                    counts[rarest] += 1
        return list(questions.values())


def people_answer(question: Question, rng: np.random.Generator) -> list[str]:
    """The answers of ten annotators: most are right, some in other words, some wrong."""
    hard = 0.05 if question.type in COMPLEX else 0.025
    answers = []
    for _ in range(10):
        answer = question.answer
        if rng.random() < hard:
            others = [a for a in _ANSWERS[question.type] if a != answer]
            answer = others[int(rng.integers(len(others)))]
        elif rng.random() < 0.08:
            answer = HUMAN_SYNONYMS.get(answer, answer)
        answers.append(answer)
    right = [k for k, answer in enumerate(answers) if answer == question.answer]
    if len(right) < 6:  # the majority must be right
        answers[:6] = [question.answer] * 6
    return answers


def _shuffled(values: Iterable[T], rng: np.random.Generator) -> list[T]:
    in_order = list(values)
    return [in_order[k] for k in rng.permutation(len(in_order))]


def _unique(scene: Scene, rng: np.random.Generator) -> list[tuple[Thing, str]]:
    """Objects that are unique by shape, or by colour and shape, each with a phrase that names it."""
    phrases = []
    for thing in _shuffled(scene.things, rng):
        if count(scene, shape=thing.shape) == 1 and rng.random() < 0.6:
            phrases.append((thing, say(thing.shape, rng)))
        elif count(scene, shape=thing.shape, color=thing.color) == 1:
            phrases.append((thing, f"{say(thing.color, rng)} {say(thing.shape, rng)}"))
    return phrases


def _existence(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    present = {(thing.color, thing.shape) for thing in scene.things}
    colors, shapes = {color for color, _ in present}, {shape for _, shape in present}
    near = [(c, s) for c in sorted(colors) for s in sorted(shapes) if (c, s) not in present]
    far = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in present]
    absent = near if near and rng.random() < 0.5 else far
    for answer, pairs in (("yes", sorted(present)), ("no", absent)):
        color, shape = pairs[int(rng.integers(len(pairs)))]
        phrase = article(f"{say(color, rng)} {say(shape, rng)}")
        yield Question("is there a", f"is there {phrase} ?", answer)


def _color(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for shape in _shuffled(SHAPES, rng):
        if count(scene, shape=shape) == 1:
            (thing,) = (t for t in scene.things if t.shape == shape)
            yield Question("what color is the", f"what color is the {say(shape, rng)} ?", thing.color)


def _shape(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for color in _shuffled(COLORS, rng):
        if count(scene, color=color) == 1:
            (thing,) = (t for t in scene.things if t.color == color)
            text = f"what shape is the {say(color, rng)} {say('thing', rng)} ?"
            yield Question("what shape is the", text, thing.shape)


def _pattern(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for thing, phrase in _unique(scene, rng):
        yield Question("what pattern is on the", f"what pattern is on the {phrase} ?", thing.texture)


def _number(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for key, values in (("shape", SHAPES), ("color", tuple(COLORS)), ("texture", TEXTURES)):
        for value in _shuffled(values, rng):
            n = count(scene, **{key: value})
            noun = plural(say(value, rng)) if key == "shape" else f"{say(value, rng)} {plural(say('thing', rng))}"
            if n <= 4 and (key != "texture" or rng.random() < 0.3):
                yield Question("how many", f"how many {noun} are there ?", str(n))


def _extreme(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for word, coordinate in EXTREMES.items():
        first, second = sorted(scene.things, key=coordinate, reverse=True)[:2]
        if coordinate(first) - coordinate(second) >= MIN_GAP / 3:
            text = f"what color is the {word} {say('thing', rng)} ?"
            yield Question("what color is at the", text, first.color)


def _relation(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    phrases = _unique(scene, rng)[:2]
    if len(phrases) < 2:
        return
    (thing, phrase), (other_thing, other_phrase) = phrases
    for word, gap in _shuffled(RELATIONS.items(), rng):
        distance = gap(thing, other_thing)
        if abs(distance) > MIN_GAP:
            answers = ("yes", "no") if distance > 0 else ("no", "yes")
            for (a, b), answer in zip(((phrase, other_phrase), (other_phrase, phrase)), answers):
                yield Question("is the _ beside the", f"is the {a} {say(word, rng)} the {b} ?", answer)
            return


def _more(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    shapes = _shuffled(sorted({thing.shape for thing in scene.things}), rng)
    for a, b in pairwise(shapes):
        n, m = count(scene, shape=a), count(scene, shape=b)
        if n != m:
            more, fewer = (a, b) if n > m else (b, a)
            for first, second, answer in ((more, fewer, "yes"), (fewer, more, "no")):
                text = f"are there more {plural(say(first, rng))} than {plural(say(second, rng))} ?"
                yield Question("are there more", text, answer)


def _bigger(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    phrases = _unique(scene, rng)
    large = [phrase for thing, phrase in phrases if thing.size == "large"]
    small = [phrase for thing, phrase in phrases if thing.size == "small"]
    if large and small:
        for a, b, answer in ((large[0], small[0], "yes"), (small[0], large[0], "no")):
            yield Question("is the _ bigger than", f"is the {a} bigger than the {b} ?", answer)


def _same_color(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    single = [t for t in _shuffled(scene.things, rng) if count(scene, shape=t.shape) == 1]
    for a, b in ((a, b) for k, a in enumerate(single) for b in single[k + 1 :]):
        text = f"do the {say(a.shape, rng)} and the {say(b.shape, rng)} have the same color ?"
        yield Question("do they share a color", text, "yes" if a.color == b.color else "no")


_CANDIDATES: dict[str, Callable[[Scene, np.random.Generator], Iterator[Question]]] = {
    "is there a": _existence,
    "what color is the": _color,
    "what shape is the": _shape,
    "what pattern is on the": _pattern,
    "how many": _number,
    "what color is at the": _extreme,
    "is the _ beside the": _relation,
    "are there more": _more,
    "is the _ bigger than": _bigger,
    "do they share a color": _same_color,
}
_YES_NO = ("yes", "no")
_ANSWERS: dict[str, tuple[str, ...]] = {
    "is there a": _YES_NO,
    "what color is the": tuple(COLORS),
    "what shape is the": SHAPES,
    "what pattern is on the": TEXTURES,
    "how many": tuple("01234"),
    "what color is at the": tuple(COLORS),
    "is the _ beside the": _YES_NO,
    "are there more": _YES_NO,
    "is the _ bigger than": _YES_NO,
    "do they share a color": _YES_NO,
}
