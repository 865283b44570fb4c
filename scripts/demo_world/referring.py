"""Referring expressions of the demo world: phrases that identify one object of a picture, in RefCOCO's format."""

from typing import Any

import numpy as np
import toolz

from scripts.demo_world.captions import EXTREMES, MIN_GAP, RELATIONS, count
from scripts.demo_world.claims import noun_phrase
from scripts.demo_world.scene import Scene, Thing, image_name
from scripts.demo_world.words import say

# How often each kind is tried; kinds that the picture does not allow are skipped.
MIX = {"shape": 0.16, "color": 0.16, "pair": 0.42, "size": 0.1, "texture": 0.02, "extreme": 0.08, "relation": 0.06}
ATTRIBUTES = {
    "shape": (("shape",),),
    "color": (("color",),),
    "pair": (("color", "shape"),),
    "size": (("size", "shape"), ("size", "color", "shape")),
    "texture": (("texture", "shape"), ("texture", "color")),
}
CROWDED = 6  # a test picture with at least this many objects belongs to testB


def expressions(scene: Scene, thing: Thing, rng: np.random.Generator, n: int) -> list[str]:
    """Make up to `n` different expressions that are true of this object alone."""
    phrases: list[str] = []
    for k in rng.choice(len(MIX), len(MIX), replace=False, p=list(MIX.values())):
        kind = list(MIX)[k]
        if kind in ATTRIBUTES:
            phrase = _attributes(scene, thing, ATTRIBUTES[kind], rng)
        else:
            phrase = (_extreme if kind == "extreme" else _relation)(scene, thing, rng)
        if phrase is not None and phrase not in phrases:
            phrases.append(phrase)
        if len(phrases) == n:
            break
    return phrases


def _attributes(scene: Scene, thing: Thing, sets: tuple[tuple[str, ...], ...], rng: np.random.Generator) -> str | None:
    """A phrase of the first set of attributes that no other object shares; None if there is none."""
    for keys in sets:
        attributes = {key: getattr(thing, key) for key in keys}
        if count(scene, **attributes) == 1:
            return f"the {noun_phrase(attributes, rng)}"
    return None


def _extreme(scene: Scene, thing: Thing, rng: np.random.Generator) -> str | None:
    """A phrase for the leftmost (…) object of all or of its shape; None if `thing` is no such object."""
    for attributes in ({"shape": thing.shape}, {}) if rng.random() < 0.5 else ({}, {"shape": thing.shape}):
        rivals = [t for t in scene.things if t.has(**attributes) and t is not thing]
        for k in rng.permutation(len(EXTREMES)):
            word, coordinate = list(EXTREMES.items())[k]
            if rivals and coordinate(thing) - max(map(coordinate, rivals)) > MIN_GAP / 3:
                return f"the {word} {noun_phrase(attributes, rng)}"
    return None


def _relation(scene: Scene, thing: Thing, rng: np.random.Generator) -> str | None:
    """A phrase for the only object of its shape that lies left of (above, …) a unique object; None if it is not."""
    rivals = [t for t in scene.things if t.shape == thing.shape and t is not thing]
    for j in rng.permutation(len(scene.things)):
        other = scene.things[j]
        if other is thing or count(scene, color=other.color, shape=other.shape) > 1 or other.shape == thing.shape:
            continue
        for k in rng.permutation(len(RELATIONS)):
            word, gap = list(RELATIONS.items())[k]
            if gap(thing, other) > MIN_GAP and all(gap(rival, other) <= 0 for rival in rivals):
                anchor = noun_phrase({"color": other.color, "shape": other.shape}, rng)
                return f"the {say(thing.shape, rng)} {say(word, rng)} the {anchor}"
    return None


def references(
    scenes: dict[int, Scene], annotations: list[dict[str, Any]], split: str, rng: np.random.Generator, n: int
) -> list[dict[str, Any]]:
    """Make entries of RefCOCO's `refs(…).p`, without `ref_id` and `sent_id`, for up to `n` objects per picture.

    `annotations`: COCO's annotations of these pictures, in the order of each scene's objects.
    """
    annotations_by_image = toolz.groupby("image_id", annotations)
    refs = []
    for image_id, scene in scenes.items():
        part = split if split != "test" else ("testB" if len(scene.things) >= CROWDED else "testA")
        n_objects = 0
        for k in _by_preference(scene, rng):
            phrases = expressions(scene, scene.things[k], rng, 1 + int(rng.random() < 0.3)) if n_objects < n else []
            if not phrases:
                continue
            n_objects += 1
            annotation = annotations_by_image[image_id][k]
            stem = image_name(split, image_id).removesuffix(".png")
            ids = {"ann_id": annotation["id"], "image_id": image_id, "category_id": annotation["category_id"]}
            sentences = [{"raw": phrase, "sent": phrase, "tokens": phrase.split()} for phrase in phrases]
            refs.append(ids | {"file_name": f"{stem}_{k}.png", "split": part, "sentences": sentences})
    return refs


def _by_preference(scene: Scene, rng: np.random.Generator) -> list[int]:
    """The indexes of all objects in random order; most of the time, objects unique by colour and shape come first."""
    unique = [count(scene, color=thing.color, shape=thing.shape) == 1 for thing in scene.things]
    order = rng.permutation(len(unique)).tolist()
    return order if rng.random() < 0.2 else sorted(order, key=lambda k: not unique[k])


def number_references(refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `ref_id`, `sent_ids` and the sentences' `sent_id` to the entries, numbered consecutively over all entries."""
    sent_id = 0
    for ref_id, ref in enumerate(refs):
        ref["ref_id"] = ref_id
        for sentence in ref["sentences"]:
            sentence["sent_id"] = sent_id
            sent_id += 1
        ref["sent_ids"] = [sentence["sent_id"] for sentence in ref["sentences"]]
    return refs
