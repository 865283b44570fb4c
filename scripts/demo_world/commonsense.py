"""VCR's task on the demo world: questions with four answers, and four reasons for the right answer.

Texts name objects by tags. The objects of a picture are listed from left to right, each by its shape, and the tag `[2]`
stands for the third of them. A tag tells the object and its shape; a model must see colours and sizes in the picture.
If choices differ in two attributes, the four choices are all combinations of a right and a wrong value of each, so that
no choice stands out. Reasons are about objects that neither the question nor the answer mentions.

The demo world has no persons; all its objects are tagged as VCR tags persons and objects.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from scripts.demo_world.captions import MIN_GAP, RELATIONS, count
from scripts.demo_world.scene import COLORS, SHAPES, Scene, Thing
from scripts.demo_world.words import article, say

T = TypeVar("T")
Tokens = list[str | list[int]]
MIX = {"color": 0.55, "look": 0.1, "neighbour": 0.15, "which": 0.12, "both": 0.08}
TAGGED = 0.3  # share of the reasons that name an object by its tag


@dataclass(frozen=True)
class Problem:
    """A question, its four answers (the first is right) and the objects that they mention (the main one first)."""

    question: Tokens
    answers: list[Tokens]
    objects: list[int]


def left_to_right(scene: Scene) -> list[Thing]:
    """The objects from left to right, the order in which tags count them."""
    return sorted(scene.things, key=lambda thing: thing.x)


def problems(scene: Scene, rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    """Make up to `n` different questions about a scene, with VCR's fields and shuffled choices."""
    lines: dict[str, dict[str, Any]] = {}
    things = left_to_right(scene)
    for _ in range(20 * n):
        if len(lines) == n:
            break
        problem = _MAKERS[list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]](things, rng)
        reasons = _reasons(scene, things, problem, rng) if problem else None
        if problem and reasons:
            line: dict[str, Any] = {"objects": [thing.shape for thing in things], "question": problem.question}
            for part, choices in (("answer", problem.answers), ("rationale", reasons)):
                order = rng.permutation(len(choices)).tolist()
                line |= {f"{part}_choices": [choices[k] for k in order], f"{part}_label": order.index(0)}
            lines.setdefault(str(problem.question), line | {"interesting_scores": [1], "answer_likelihood": "likely"})
    return list(lines.values())


def sentences_without_tags(line: dict[str, Any]) -> list[str]:
    """The question and all choices as sentences without their tags."""
    texts = [line["question"], *line["answer_choices"], *line["rationale_choices"]]
    return [" ".join(token for token in tokens if isinstance(token, str)) for tokens in texts]


def _pick(values: Iterable[T], rng: np.random.Generator, n: int = 1) -> list[T]:
    in_order = list(values)
    return [in_order[k] for k in rng.permutation(len(in_order))[:n]]


def _wrong_colors(things: list[Thing], right: str, rng: np.random.Generator, n: int = 1) -> list[str]:
    """`n` colours other than the right one; colours of the picture come first."""
    visible = {thing.color for thing in things} - {right}
    first = _pick(sorted(visible), rng, n)
    return first + _pick([c for c in COLORS if c != right and c not in visible], rng, n - len(first))


def _a(*words: str) -> Tokens:
    return [*article(" ".join(words)).split()]


def _color(things: list[Thing], rng: np.random.Generator) -> Problem:
    k = int(rng.integers(len(things)))
    colors = [things[k].color, *_wrong_colors(things, things[k].color, rng, 3)]
    answers: list[Tokens] = [["it", "is", *_a(color), [k], "."] for color in colors]
    return Problem(["what", "color", "is", [k], "?"], answers, [k])


def _look(things: list[Thing], rng: np.random.Generator) -> Problem:
    k = int(rng.integers(len(things)))
    thing, (color,) = things[k], _wrong_colors(things, things[k].color, rng)
    sizes = (thing.size, "small" if thing.size == "large" else "large")
    answers: list[Tokens] = [["it", "is", *_a(s, c), [k], "."] for s in sizes for c in (thing.color, color)]
    return Problem(["what", "does", [k], "look", "like", "?"], answers, [k])


def _neighbours(things: list[Thing], k: int, word: str, leave_out: list[int]) -> list[int]:
    """The objects that lie clearly left of (above, …) object k, without those in `leave_out`."""
    gap = RELATIONS[word]
    return [j for j, t in enumerate(things) if j != k and j not in leave_out and gap(t, things[k]) > MIN_GAP]


def _neighbour(things: list[Thing], rng: np.random.Generator) -> Problem | None:
    k, (word,) = int(rng.integers(len(things))), _pick(RELATIONS, rng)
    neighbours = _pick(_neighbours(things, k, word, []), rng, len(things))
    j, phrases = _two_tags(things, neighbours, rng) or (k, [])
    if not phrases:
        return None
    return Problem(["what", "is", *say(word, rng).split(), [k], "?"], [[*phrase, "."] for phrase in phrases], [j, k])


def _two_tags(things: list[Thing], among: list[int], rng: np.random.Generator) -> tuple[int, list[Tokens]] | None:
    """An object and four phrases such as "a red [2]", the right one first: two colours with two tags."""
    for j in among:
        color = things[j].color
        for other in among:
            wrong = [c for c in _wrong_colors(things, color, rng, 2) if c != things[other].color]
            if things[other].color != color and wrong:
                return j, [[*_a(c), [tag]] for c in (color, wrong[0]) for tag in (j, other)]
    return None


def _which(things: list[Thing], rng: np.random.Generator) -> Problem | None:
    unique = [k for k, thing in enumerate(things) if sum(t.color == thing.color for t in things) == 1]
    if len(things) < 4 or not unique:
        return None
    (k,) = _pick(unique, rng)
    tags = [k, *_pick([j for j in range(len(things)) if j != k], rng, 3)]
    color = things[k].color
    return Problem(["which", "one", "is", color, "?"], [["the", color, [tag], "."] for tag in tags], [k])


def _both(things: list[Thing], rng: np.random.Generator) -> Problem:
    pair = sorted(_pick(range(len(things)), rng, 2))
    one, two = ((things[k].color, *_wrong_colors(things, things[k].color, rng)) for k in pair)
    answers: list[Tokens] = [[*_a(c), [pair[0]], "and", *_a(d), [pair[1]], "."] for c in one for d in two]
    return Problem(["what", "color", "are", pair, "?"], answers, pair)


def _reasons(scene: Scene, things: list[Thing], problem: Problem, rng: np.random.Generator) -> list[Tokens] | None:
    """Four reasons, the right one first: what lies left of (above, …) the object that the answer is about."""
    main = problem.objects[0]
    looks = {(things[k].color, things[k].shape) for k in problem.objects}
    banned = {things[main].color} if problem.question[0] == "which" else set()  # no other object has this colour
    for word in _pick(RELATIONS, rng, len(RELATIONS)):
        near = _neighbours(things, main, word, problem.objects)
        near = _pick([j for j in near if (things[j].color, things[j].shape) not in looks], rng, len(things))
        tagged = _two_tags(things, near, rng) if rng.random() < TAGGED else None
        phrases = tagged[1] if tagged else _two_shapes(scene, things[near[0]], banned, rng) if near else []
        if phrases and not any(part in banned for phrase in phrases for part in phrase if isinstance(part, str)):
            relation = say(word, rng).split()
            return [["because", *phrase, "is", *relation, "it", "."] for phrase in phrases]
    return None


def _two_shapes(scene: Scene, thing: Thing, banned: set[str], rng: np.random.Generator) -> list[Tokens]:
    """Four phrases such as "a red star": two colours with two shapes. Only the first is true of the picture."""
    visible_colors, visible_shapes = {t.color for t in scene.things}, {t.shape for t in scene.things}
    colors = _pick(sorted(visible_colors), rng, 8) + _pick(sorted(set(COLORS) - visible_colors), rng, 8)
    shapes = _pick(sorted(visible_shapes), rng, 8) + _pick(sorted(set(SHAPES) - visible_shapes), rng, 8)
    for color in colors:
        for shape in shapes:
            if color in (thing.color, *banned) or shape == thing.shape:
                continue
            others = [(thing.color, shape), (color, thing.shape), (color, shape)]
            if not any(count(scene, color=c, shape=s) for c, s in others):
                return [[*_a(c, s)] for c, s in [(thing.color, thing.shape), *others]]
    return []


_MAKERS: dict[str, Callable[[list[Thing], np.random.Generator], Problem | None]] = {
    "color": _color,
    "look": _look,
    "neighbour": _neighbour,
    "which": _which,
    "both": _both,
}
