"""Questions about a scene with ten people's answers. Half and more need relations, counts or comparisons.

Answers are balanced within every question type (and each question's wording fits every answer), so that a model that
sees no picture stays near the prior of the type.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scripts.demo_world.captions import CLEAR, EXTREMES, RELATIONS, count
from scripts.demo_world.scene import COLORS, SHAPES, TEXTURES, Scene, Thing
from scripts.demo_world.words import article, plural, say

# How often each type is tried; some scenes have no such question, so what comes out differs. The first four look at one
# object; the rest, 52 % of what comes out, need several.
MIX = {
    "is there a": 0.15,
    "what color is the": 0.22,
    "what shape is the": 0.14,
    "what pattern is on the": 0.05,
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
    type: str
    text: str
    answer: str

    @property
    def answer_type(self) -> str:
        """As in VQA: yes/no, number or other."""
        if self.answer in ("yes", "no"):
            return "yes/no"
        return "number" if self.answer.isdigit() else "other"


class Asker:
    """Asks about scene after scene, choosing among the answers a scene allows the one given least so far."""

    def __init__(self) -> None:
        self.given: dict[str, Counter[str]] = {kind: Counter() for kind in MIX}

    def ask(self, scene: Scene, rng: np.random.Generator, n: int) -> list[Question]:
        """`n` different questions."""
        asked: dict[str, Question] = {}
        for _ in range(60 * n):
            if len(asked) == n:
                break
            kind = list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]
            candidates = {q.answer: q for q in _CANDIDATES[kind](scene, rng)}  # one question an answer
            candidates = {a: q for a, q in candidates.items() if q.text not in asked}
            if candidates:
                rarest = min(candidates, key=lambda answer: (self.given[kind][answer], answer))
                question = candidates[rarest]
                # Where even the rarest is common, most scenes cannot give the others: leave it out now and then.
                if self.given[kind][rarest] <= 1.15 * self._even(kind) + 3:
                    asked[question.text] = question
                    self.given[kind][rarest] += 1
        return list(asked.values())

    def _even(self, kind: str) -> float:
        return sum(self.given[kind].values()) / len(_ANSWERS[kind])


def people_answer(question: Question, rng: np.random.Generator) -> list[str]:
    """Ten people's answers: most right, some in other words, some wrong."""
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
    if len(right) < 6:  # the majority is right
        answers[:6] = [question.answer] * 6
    return answers


def _shuffled(values, rng: np.random.Generator) -> list:
    values = list(values)
    return [values[k] for k in rng.permutation(len(values))]


def _unique(scene: Scene, rng: np.random.Generator) -> list[tuple[Thing, str]]:
    """Objects that colour and shape, or shape alone, single out, with such a phrase."""
    found = []
    for thing in _shuffled(scene.things, rng):
        if count(scene, shape=thing.shape) == 1 and rng.random() < 0.6:
            found.append((thing, say(thing.shape, rng)))
        elif count(scene, shape=thing.shape, color=thing.color) == 1:
            found.append((thing, f"{say(thing.color, rng)} {say(thing.shape, rng)}"))
    return found


def _existence(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    here = {(thing.color, thing.shape) for thing in scene.things}
    colors, shapes = {color for color, _ in here}, {shape for _, shape in here}
    near = [(c, s) for c in sorted(colors) for s in sorted(shapes) if (c, s) not in here]
    far = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in here]
    absent = near if near and rng.random() < 0.5 else far
    for answer, pairs in (("yes", sorted(here)), ("no", absent)):
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
    for word, place in EXTREMES.items():
        first, second = sorted(scene.things, key=place, reverse=True)[:2]
        if place(first) - place(second) >= CLEAR / 3:
            text = f"what color is the {word} {say('thing', rng)} ?"
            yield Question("what color is at the", text, first.color)


def _relation(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    named = _unique(scene, rng)[:2]
    if len(named) < 2:
        return
    for word, gap in _shuffled(RELATIONS.items(), rng):
        distance = gap(named[0][0], named[1][0])
        if abs(distance) > CLEAR:
            for (a, b), answer in ((named, "yes"), (named[::-1], "no")):
                answer = answer if distance > 0 else {"yes": "no", "no": "yes"}[answer]
                yield Question("is the _ beside the", f"is the {a[1]} {say(word, rng)} the {b[1]} ?", answer)
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
    named = _unique(scene, rng)
    large = [phrase for thing, phrase in named if thing.size == "large"]
    small = [phrase for thing, phrase in named if thing.size == "small"]
    if large and small:
        for a, b, answer in ((large[0], small[0], "yes"), (small[0], large[0], "no")):
            yield Question("is the _ bigger than", f"is the {a} bigger than the {b} ?", answer)


def _same_color(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    single = [t for t in _shuffled(scene.things, rng) if count(scene, shape=t.shape) == 1]
    for a, b in ((a, b) for k, a in enumerate(single) for b in single[k + 1 :]):
        text = f"do the {say(a.shape, rng)} and the {say(b.shape, rng)} have the same color ?"
        yield Question("do they share a color", text, "yes" if a.color == b.color else "no")


_CANDIDATES = dict(
    zip(MIX, (_existence, _color, _shape, _pattern, _number, _extreme, _relation, _more, _bigger, _same_color))
)
_YES_NO = ("yes", "no")
_COLORS = tuple(COLORS)
_ANSWERS = dict(
    zip(
        MIX,
        (
            _YES_NO,
            _COLORS,
            SHAPES,
            TEXTURES,
            tuple("01234"),
            _COLORS,
            _YES_NO,
            _YES_NO,
            _YES_NO,
            _YES_NO,
        ),
    )
)
