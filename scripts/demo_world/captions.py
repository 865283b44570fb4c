"""True captions of a scene: attributes, numbers, places and comparisons of its objects."""

from collections.abc import Callable

import numpy as np

from scripts.demo_world.scene import COLORS, SHAPES, SIZE, TEXTURES, Scene, Thing
from scripts.demo_world.words import NUMBERS, add_noise, article, plural, say

RELATIONS: dict[str, Callable[[Thing, Thing], float]] = {  # the distance in pixels by which a is left of (above, …) b
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}
MIN_GAP = 24  # the smallest distance in pixels at which a caption says that one object is left of (above, …) another
PLACES: dict[str, Callable[[Thing], bool]] = {  # a third of the picture, and whether an object's centre is there
    "on the left": lambda thing: thing.x < SIZE / 3,
    "on the right": lambda thing: thing.x > SIZE * 2 / 3,
    "at the top": lambda thing: thing.y < SIZE / 3,
    "at the bottom": lambda thing: thing.y > SIZE * 2 / 3,
}
EXTREMES: dict[str, Callable[[Thing], float]] = {  # a coordinate; the leftmost (…) object has the largest value
    "leftmost": lambda thing: -thing.x,
    "rightmost": lambda thing: thing.x,
    "topmost": lambda thing: -thing.y,
    "lowest": lambda thing: thing.y,
}


def captions(scene: Scene, rng: np.random.Generator, n: int = 5) -> list[str]:
    """Make `n` captions, each of one to three true clauses of different kinds."""
    makers: tuple[Callable[[Scene, np.random.Generator], str | None], ...]
    makers = (_describe, _describe, _place, _place, relate, relate, count_clause, count_clause, _extreme, texture)
    makers += (_compare, _absent)
    sentences: list[str] = []
    while len(sentences) < n:
        three = [makers[k] for k in rng.choice(len(makers), 3, replace=False)]
        clauses = [clause for make in three if (clause := make(scene, rng)) is not None]
        if rng.random() < 0.4:
            clauses = clauses[:2]
        if clauses:
            joint = " and " if len(clauses) == 2 and rng.random() < 0.5 else " , "
            sentences.append(add_noise(joint.join(clauses), rng) + (" ." if rng.random() < 0.3 else ""))
    return sentences


def describe_thing(thing: Thing, rng: np.random.Generator, most: int = 3) -> str:
    """Describe an object by up to `most` adjectives and its shape: "small striped red circle"."""
    adjectives = [thing.size, thing.texture, thing.color]
    some = [a for a in adjectives if a == thing.color or rng.random() < (0.3 if a == "plain" else 0.45)][-most:]
    return " ".join(say(word, rng) for word in [*some, thing.shape])


def _any_thing(scene: Scene, rng: np.random.Generator) -> Thing:
    return scene.things[int(rng.integers(len(scene.things)))]


def _describe(scene: Scene, rng: np.random.Generator) -> str:
    return article(describe_thing(_any_thing(scene, rng), rng))


def _place(scene: Scene, rng: np.random.Generator) -> str | None:
    """Say in which third of the picture an object is; None for one in the middle."""
    thing = _any_thing(scene, rng)
    places = [word for word, is_there in PLACES.items() if is_there(thing)]
    if not places:
        return None
    return f"{article(describe_thing(thing, rng, 2))} {places[int(rng.integers(len(places)))]}"


def relate(scene: Scene, rng: np.random.Generator) -> str | None:
    """Say where one object lies from another; None if the two chosen objects are too close together."""
    a, b = (scene.things[k] for k in rng.permutation(len(scene.things))[:2])
    words = [word for word, gap in RELATIONS.items() if gap(a, b) > MIN_GAP]
    if not words:
        return None
    word = say(words[int(rng.integers(len(words)))], rng)
    return f"{article(describe_thing(a, rng, 2))} is {word} {article(describe_thing(b, rng, 2))}"


def count(scene: Scene, **attributes: str) -> int:
    """The number of objects with all of the attributes."""
    return sum(thing.has(**attributes) for thing in scene.things)


def count_clause(scene: Scene, rng: np.random.Generator) -> str:
    """Say how many objects have a certain shape, colour or texture."""
    thing = _any_thing(scene, rng)
    key = ("shape", "color", "texture")[int(rng.choice(3, p=(0.5, 0.35, 0.15)))]
    value = getattr(thing, key)
    n = count(scene, **{key: value})
    if key == "shape":
        noun = say(value, rng)
    else:
        noun = f"{say(value, rng)} {say('thing', rng)}"
    return f"{NUMBERS[n]} {noun if n == 1 else ' '.join([*noun.split()[:-1], plural(noun.split()[-1])])}"


def _extreme(scene: Scene, rng: np.random.Generator) -> str | None:
    word = list(EXTREMES)[int(rng.integers(len(EXTREMES)))]
    ranked = sorted(scene.things, key=EXTREMES[word], reverse=True)
    if EXTREMES[word](ranked[0]) - EXTREMES[word](ranked[1]) < MIN_GAP / 3:
        return None
    first = ranked[0]
    looks = (say(first.color, rng), article(say(first.shape, rng)), article(describe_thing(first, rng, 2)))
    return f"the {word} {say('thing', rng)} is {looks[int(rng.choice(3, p=(0.25, 0.25, 0.5)))]}"


def texture(scene: Scene, rng: np.random.Generator) -> str | None:
    """Say the texture of an object that its colour and shape name; None if no object is so named."""
    unique = [thing for thing in scene.things if count(scene, color=thing.color, shape=thing.shape) == 1]
    if not unique:
        return None
    thing = unique[int(rng.integers(len(unique)))]
    name = f"{say(thing.color, rng)} {say(thing.shape, rng)}"
    if count(scene, shape=thing.shape) == 1 and rng.random() < 0.5:
        name = say(thing.shape, rng)
    return f"the {name} is {say(thing.texture, rng)}"


def _compare(scene: Scene, rng: np.random.Generator) -> str | None:
    shapes = sorted({thing.shape for thing in scene.things})
    if len(shapes) < 2:
        return None
    a, b = (shapes[k] for k in rng.permutation(len(shapes))[:2])
    n, m = count(scene, shape=a), count(scene, shape=b)
    a, b = plural(say(a, rng)), plural(say(b, rng))
    if n == m:
        return f"as many {a} as {b}"
    return f"more {a} than {b}" if n > m else f"fewer {a} than {b}"


def _absent(scene: Scene, rng: np.random.Generator) -> str | None:
    key = ("shape", "color", "texture")[int(rng.integers(3))]
    values = {"shape": SHAPES, "color": tuple(COLORS), "texture": TEXTURES}[key]
    value = values[int(rng.integers(len(values)))]
    word = plural(say(value, rng)) if key == "shape" else f"{say(value, rng)} {plural(say('thing', rng))}"
    return None if count(scene, **{key: value}) else f"no {word}"
