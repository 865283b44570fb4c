"""Claims about a picture in the words of captions, and in which pictures of a split they are true.

Mostly that something of a colour and shape is there (or is not), now and then a number, a comparison or a place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scripts.demo_world.captions import EXTREMES, RELATIONS
from scripts.demo_world.gallery import Gallery
from scripts.demo_world.scene import Thing
from scripts.demo_world.words import NUMBERS, article, plural, say

MIX = {"pair": 0.5, "one": 0.14, "absent": 0.14, "number": 0.08, "more": 0.05, "extreme": 0.04, "relation": 0.05}


@dataclass(frozen=True)
class Claim:
    """`text` is true of a picture of the gallery where `verdict` is 1, false where 0, open to dispute where -1."""

    kind: str
    text: str
    verdict: np.ndarray  # (n,) int
    near: np.ndarray  # (n,) bool: pictures of which it is nearly true, to be preferred where it is false

    def pick(self, truth: bool, rng: np.random.Generator) -> int | None:
        """A picture of which the claim is true, or false (a near one, half of the time); None where there is none."""
        fits = self.verdict == truth
        if not truth and (fits & self.near).any() and rng.random() < 0.5:
            fits &= self.near
        found = np.flatnonzero(fits)
        return int(found[rng.integers(len(found))]) if len(found) else None


def make_claim(gallery: Gallery, rng: np.random.Generator) -> Claim:
    """A claim of a kind drawn by `MIX`, about what some object of the gallery looks like."""
    kind = list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]
    return _MAKERS[kind](gallery, rng)


def attributes(thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    """What to call a kind of thing by: colour and shape (now and then with its size), or one of the two."""
    both = {"color": thing.color, "shape": thing.shape}
    drawn = rng.random()
    if drawn < 0.2:
        return {"size": thing.size} | both
    return both if drawn < 0.75 else one_attribute(thing, rng)


def one_attribute(thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    """Its shape or its colour."""
    key = ("shape", "color")[int(rng.integers(2))]
    return {key: getattr(thing, key)}


def noun(kind: dict[str, str], rng: np.random.Generator, many: bool = False) -> str:
    """The attributes in words: "small red disc", "green things"."""
    words = [say(kind[key], rng) for key in ("size", "texture", "color") if key in kind]
    head = say(kind.get("shape", "thing"), rng)
    return " ".join([*words, plural(head) if many else head])


def _pair(gallery: Gallery, rng: np.random.Generator) -> Claim:
    thing = gallery.any_thing(rng)
    kind = {"color": thing.color, "shape": thing.shape}
    if rng.random() < 0.2:
        kind["size"] = thing.size
    near = (gallery.count(color=thing.color) > 0) & (gallery.count(shape=thing.shape) > 0)
    return Claim("pair", article(noun(kind, rng)), (gallery.count(**kind) > 0).astype(int), near)


def _one(gallery: Gallery, rng: np.random.Generator) -> Claim:
    kind = one_attribute(gallery.any_thing(rng), rng)
    there = gallery.count(**kind) > 0
    return Claim("one", article(noun(kind, rng)), there.astype(int), ~there)


def _absent(gallery: Gallery, rng: np.random.Generator) -> Claim:
    kind = one_attribute(gallery.any_thing(rng), rng)
    there = gallery.count(**kind)
    return Claim("absent", f"no {noun(kind, rng, many=True)}", (there == 0).astype(int), there == 1)


def _number(gallery: Gallery, rng: np.random.Generator) -> Claim:
    kind, n = one_attribute(gallery.any_thing(rng), rng), int(rng.integers(1, 4))
    there = gallery.count(**kind)
    return Claim("number", f"{NUMBERS[n]} {noun(kind, rng, n > 1)}", (there == n).astype(int), abs(there - n) == 1)


def _more(gallery: Gallery, rng: np.random.Generator) -> Claim:
    a, b = gallery.any_thing(rng).shape, gallery.any_thing(rng).shape
    difference = gallery.count(shape=a) - gallery.count(shape=b)
    word, true = (("more", difference > 0), ("fewer", difference < 0))[int(rng.integers(2))]
    text = f"{word} {plural(say(a, rng))} than {plural(say(b, rng))}"
    return Claim("more", text, true.astype(int), difference != 0)


def _extreme(gallery: Gallery, rng: np.random.Generator) -> Claim:
    word, kind = list(EXTREMES)[int(rng.integers(len(EXTREMES)))], attributes(gallery.any_thing(rng), rng)
    text = f"the {word} {say('thing', rng)} is {article(noun(kind, rng))}"
    return Claim("extreme", text, gallery.extreme(word, **kind), gallery.count(**kind) > 0)


def _relation(gallery: Gallery, rng: np.random.Generator) -> Claim:
    things = gallery.scenes[int(rng.integers(len(gallery)))].things
    a, b = ({"color": t.color, "shape": t.shape} for t in (things[k] for k in rng.permutation(len(things))[:2]))
    word = list(RELATIONS)[int(rng.integers(len(RELATIONS)))]
    text = f"{article(noun(a, rng))} is {say(word, rng)} {article(noun(b, rng))}"
    both = (gallery.count(**a) > 0) & (gallery.count(**b) > 0)
    return Claim("relation", text, gallery.beside(word, a, b), both)


_MAKERS: dict[str, Callable[[Gallery, np.random.Generator], Claim]] = dict(
    zip(MIX, (_pair, _one, _absent, _number, _more, _extreme, _relation))
)
