"""Retrieval on the demo world, in the format of Karpathy's splits: each picture has five specific captions."""

from typing import Any

import numpy as np

from scripts.demo_world.captions import count_clause, describe_thing, relate
from scripts.demo_world.scene import Scene, Thing, image_name
from scripts.demo_world.words import article

MAX_PICTURES = {"train": 2000, "val": 100, "test": 100}  # maximum number of pictures per split
RESTVAL = 0.25  # share of the training pictures that are called `restval` in COCO's file


def specific_captions(scene: Scene, rng: np.random.Generator, n: int) -> list[str]:
    """Make `n` captions of three or four objects that differ in colour or shape, or of fewer if the scene has fewer.

    Four of five captions only name the objects; in the others one clause is a relation or a count.
    """
    return [_caption(scene, rng) for _ in range(n)]


def _caption(scene: Scene, rng: np.random.Generator) -> str:
    by_look: dict[tuple[str, str], Thing] = {}
    for k in rng.permutation(len(scene.things)):
        thing = scene.things[k]
        by_look.setdefault((thing.color, thing.shape), thing)
    things = list(by_look.values())[: 3 + int(rng.random() < 0.5)]
    clauses = [article(describe_thing(thing, rng, 2)) for thing in things]
    if rng.random() < 0.2 or len(things) < 3:
        extra = (relate, count_clause)[int(rng.integers(2))](scene, rng)
        clauses = clauses[:3] + ([extra] if extra else [])
    return " , ".join(clauses)


def karpathy(captions: dict[str, dict[int, list[str]]], style: str) -> dict[str, Any]:
    """The contents of a Karpathy dataset JSON. `captions`: split → image id → captions.

    `style`: coco or flickr30k. As in the original files, only COCO has the split `restval`, and a folder and a number
    for each picture; Flickr30k's pictures have their number as file name.
    """
    images: list[dict[str, Any]] = []
    sent_id = 0
    for split, by_image in captions.items():
        for position, (image_id, sentences) in enumerate(by_image.items()):
            part = split
            if style == "coco" and split == "train" and position >= (1 - RESTVAL) * len(by_image):
                part = "restval"
            ids = list(range(sent_id, sent_id + len(sentences)))
            sent_id += len(sentences)
            entries = [
                {"tokens": s.replace(",", "").split(), "raw": s, "imgid": len(images), "sentid": i}
                for s, i in zip(sentences, ids)
            ]
            image = {"sentids": ids, "imgid": len(images), "sentences": entries, "split": part}
            if style == "coco":
                image |= {"filename": image_name(split, image_id), "filepath": split, "cocoid": image_id}
            else:
                image |= {"filename": f"{image_id}.png"}
            images.append(image)
    return {"images": images, "dataset": style}
