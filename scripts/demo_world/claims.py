"""Claims about a picture, and the pictures of a split in which they are true.

Most claims say that an object of a certain colour and shape is in the picture, or is not. Others are about a number, a
comparison or a place. The words are those of the captions.
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
    """A claim and its truth for each picture of a gallery: `verdict` is 1 for true, 0 for false, -1 for unclear."""

    kind: str
    text: str
    verdict: np.ndarray  # (n,) int
    near: np.ndarray  # (n,) bool: pictures for which the claim is almost true; they make harder false examples

    def pick(self, truth: bool, rng: np.random.Generator) -> int | None:
        """Draw a picture for which the claim is true, or false (half of the time a near one); None if none exists."""
        fits = self.verdict == truth
        if not truth and (fits & self.near).any() and rng.random() < 0.5:
            fits &= self.near
        indices = np.flatnonzero(fits)
        return int(indices[rng.integers(len(indices))]) if len(indices) else None


def make_claim(gallery: Gallery, rng: np.random.Generator) -> Claim:
    """Draw a claim. Its kind has the probabilities `MIX`; its attributes are those of a random object."""
    kind = list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]
    return _MAKERS[kind](gallery, rng)


def pick_attributes(thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    """Choose attributes to name an object by: colour and shape, sometimes with its size, or only one of the two."""
    both = {"color": thing.color, "shape": thing.shape}
    u = rng.random()
    if u < 0.2:
        return {"size": thing.size} | both
    return both if u < 0.75 else pick_attribute(thing, rng)


def pick_attribute(thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    """Choose one attribute to name an object by: its shape or its colour."""
    key = ("shape", "color")[int(rng.integers(2))]
    return {key: getattr(thing, key)}


def noun_phrase(attributes: dict[str, str], rng: np.random.Generator, many: bool = False) -> str:
    """The attributes as a noun phrase: "small red disc", "green things"."""
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
