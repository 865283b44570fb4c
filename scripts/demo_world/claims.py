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


@dataclass(frozen=True, kw_only=True)
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
        indices = np.flatnonzero(fits)
        return int(indices[rng.integers(len(indices))]) if len(indices) else None


def make_claim(gallery: Gallery, rng: np.random.Generator) -> Claim:
    """A claim of a kind drawn by `MIX`, about what some object of the gallery looks like."""
    kind = list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]
    return _MAKERS[kind](gallery, rng)


def pick_attributes(thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    """Attributes to name a thing by: colour and shape (now and then with its size), or one of the two."""
    both = {"color": thing.color, "shape": thing.shape}
    u = rng.random()
    if u < 0.2:
        return {"size": thing.size} | both
    return both if u < 0.75 else pick_attribute(thing, rng)


def pick_attribute(thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    """Its shape or its colour."""
    key = ("shape", "color")[int(rng.integers(2))]
    return {key: getattr(thing, key)}


def noun_phrase(attributes: dict[str, str], rng: np.random.Generator, many: bool = False) -> str:
    """The attributes in words: "small red disc", "green things"."""
    words = [say(attributes[key], rng) for key in ("size", "texture", "color") if key in attributes]
    head = say(attributes.get("shape", "thing"), rng)
    return " ".join([*words, plural(head) if many else head])


def _pair(gallery: Gallery, rng: np.random.Generator) -> Claim:
    thing = gallery.any_thing(rng)
    attributes = {"color": thing.color, "shape": thing.shape}
    if rng.random() < 0.2:
        attributes["size"] = thing.size
    near = (gallery.count(color=thing.color) > 0) & (gallery.count(shape=thing.shape) > 0)
    verdict = (gallery.count(**attributes) > 0).astype(int)
    return Claim(kind="pair", text=article(noun_phrase(attributes, rng)), verdict=verdict, near=near)


def _one(gallery: Gallery, rng: np.random.Generator) -> Claim:
    attribute = pick_attribute(gallery.any_thing(rng), rng)
    verdict = gallery.count(**attribute) > 0
    return Claim(kind="one", text=article(noun_phrase(attribute, rng)), verdict=verdict.astype(int), near=~verdict)


def _absent(gallery: Gallery, rng: np.random.Generator) -> Claim:
    attribute = pick_attribute(gallery.any_thing(rng), rng)
    counts, text = gallery.count(**attribute), f"no {noun_phrase(attribute, rng, many=True)}"
    return Claim(kind="absent", text=text, verdict=(counts == 0).astype(int), near=counts == 1)


def _number(gallery: Gallery, rng: np.random.Generator) -> Claim:
    attribute, n = pick_attribute(gallery.any_thing(rng), rng), int(rng.integers(1, 4))
    counts, text = gallery.count(**attribute), f"{NUMBERS[n]} {noun_phrase(attribute, rng, many=n > 1)}"
    return Claim(kind="number", text=text, verdict=(counts == n).astype(int), near=abs(counts - n) == 1)


def _more(gallery: Gallery, rng: np.random.Generator) -> Claim:
    a, b = gallery.any_thing(rng).shape, gallery.any_thing(rng).shape
    difference = gallery.count(shape=a) - gallery.count(shape=b)
    word, verdict = (("more", difference > 0), ("fewer", difference < 0))[int(rng.integers(2))]
    text = f"{word} {plural(say(a, rng))} than {plural(say(b, rng))}"
    return Claim(kind="more", text=text, verdict=verdict.astype(int), near=difference != 0)


def _extreme(gallery: Gallery, rng: np.random.Generator) -> Claim:
    word = list(EXTREMES)[int(rng.integers(len(EXTREMES)))]
    attributes = pick_attributes(gallery.any_thing(rng), rng)
    text = f"the {word} {say('thing', rng)} is {article(noun_phrase(attributes, rng))}"
    verdict = gallery.extreme(word, **attributes)
    return Claim(kind="extreme", text=text, verdict=verdict, near=gallery.count(**attributes) > 0)


def _relation(gallery: Gallery, rng: np.random.Generator) -> Claim:
    things = gallery.scenes[int(rng.integers(len(gallery)))].things
    a, b = ({"color": t.color, "shape": t.shape} for t in (things[k] for k in rng.permutation(len(things))[:2]))
    word = list(RELATIONS)[int(rng.integers(len(RELATIONS)))]
    text = f"{article(noun_phrase(a, rng))} is {say(word, rng)} {article(noun_phrase(b, rng))}"
    both = (gallery.count(**a) > 0) & (gallery.count(**b) > 0)
    return Claim(kind="relation", text=text, verdict=gallery.relation(word, a, b), near=both)


_MAKERS: dict[str, Callable[[Gallery, np.random.Generator], Claim]] = {
    "pair": _pair,
    "one": _one,
    "absent": _absent,
    "number": _number,
    "more": _more,
    "extreme": _extreme,
    "relation": _relation,
}
