"""Annotation files of the demo world for NLVR2, SNLI-VE, retrieval, referring expressions and VCR."""

import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import toolz

from data.rng import generator
from scripts.demo_world.commonsense import left_to_right, problems, sentences_without_tags
from scripts.demo_world.entailment import hypotheses
from scripts.demo_world.gallery import Gallery
from scripts.demo_world.referring import number_references, references
from scripts.demo_world.retrieval import MAX_PICTURES, karpathy, specific_captions
from scripts.demo_world.scene import SIZE, Scene, image_name
from scripts.demo_world.statements import statements
from utils.files import atomic_write, write_json

EXAMPLES_PER_PICTURE = {"train": 2.0, "val": 3.0, "test": 2.5}  # for NLVR2, VE and VCR
NLVR2_NAMES = {"train": "train", "val": "dev", "test": "test1"}  # names of the splits in NLVR2's identifiers


@dataclass(frozen=True, kw_only=True)
class Split:
    """The pictures of a split with their captions and boxes, by image id."""

    name: str
    scenes: dict[int, Scene]
    captions: dict[int, list[str]]
    instances: dict[str, Any]  # in COCO's format

    @property
    def size(self) -> int:
        """The number of examples to make for each of NLVR2, VE and VCR."""
        return round(EXAMPLES_PER_PICTURE[self.name] * len(self.scenes))


def write_tasks(output: Path, splits: list[Split], seed: int) -> list[str]:
    """Write the annotation files of all five tasks; returns the training sentences, for the vocabulary."""
    training_sentences: list[str] = []
    for split in splits:
        gallery = Gallery(split.scenes)
        sentences = _nlvr2(output, split, gallery, generator(seed, "nlvr2", split.name))
        sentences += _entailment(output, split, gallery, generator(seed, "entailment", split.name))
        sentences += _commonsense(output, split, seed)
        training_sentences += sentences if split.name == "train" else []
    return training_sentences + _retrieval(output, splits, seed) + _referring(output, splits, seed)


def _write_lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    atomic_write(path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())


def _nlvr2(output: Path, split: Split, gallery: Gallery, rng: np.random.Generator) -> list[str]:
    """Write `nlvr2_{split}.json`; for val and test also its parts `balanced_{split}.json`, `unbalanced_{split}.json`.

    Fields that NLVR2 does not have: `left_image` and `right_image`, the names of the files in `images/{split}`.
    """
    lines: list[dict[str, Any]] = []
    parts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for example in statements(gallery, rng, split.size, NLVR2_NAMES[split.name]):
        files = [image_name(split.name, gallery.ids[picture]) for picture in example["pair"]]
        line = {key: example[key] for key in ("identifier", "sentence", "label")}
        for side, file in zip(("left", "right"), files):
            line |= {f"{side}_url": f"images/{split.name}/{file}", f"{side}_image": file}
        line |= {"synset": example["subject"], "query": f"{example['subject']}0", "writer": "0"}
        line |= {"validation": {"1": example["label"]}}
        lines.append(line)
        parts[example["balanced"]].append(line)
    _write_lines(output / f"nlvr2_{split.name}.json", lines)
    if split.name != "train":
        _write_lines(output / f"balanced_{split.name}.json", parts[True])
        _write_lines(output / f"unbalanced_{split.name}.json", parts[False])
    return [line["sentence"] for line in lines]


def _entailment(output: Path, split: Split, gallery: Gallery, rng: np.random.Generator) -> list[str]:
    """Write `snli_ve_{split}.jsonl`, with one annotator in the training split and five in the others."""
    votes = 1 if split.name == "train" else 5
    lines = hypotheses(gallery, split.captions, rng, n=split.size, votes=votes)
    _write_lines(output / f"snli_ve_{split.name}.jsonl", lines)
    return [line["sentence2"] for line in lines]


def _retrieval(output: Path, splits: list[Split], seed: int) -> list[str]:
    """Write `dataset_coco.json` and `dataset_flickr30k.json`, with the same captions."""
    captions: dict[str, dict[int, list[str]]] = {}
    for split in splits:
        scenes = list(split.scenes.items())[: MAX_PICTURES[split.name]]
        captions[split.name] = {i: specific_captions(scene, generator(seed, "retrieval", i), 5) for i, scene in scenes}
    for style in ("coco", "flickr30k"):
        write_json(output / f"dataset_{style}.json", karpathy(captions, style))
    return [caption for five in captions["train"].values() for caption in five]


def _referring(output: Path, splits: list[Split], seed: int) -> list[str]:
    """Write, for all splits, `refs(demo).p`, `instances.json` and `iid_to_ann_ids.json` (the order of the objects)."""
    instances: dict[str, Any] = {"images": [], "annotations": [], "categories": splits[0].instances["categories"]}
    refs: list[dict[str, Any]] = []
    for split in splits:
        for key in ("images", "annotations"):
            instances[key] += split.instances[key]
        rng = generator(seed, "referring", split.name)
        refs += references(split.scenes, split.instances["annotations"], split=split.name, rng=rng, n=2)
    by_image = toolz.groupby("image_id", instances["annotations"])
    objects = {str(image_id): [annotation["id"] for annotation in group] for image_id, group in by_image.items()}
    atomic_write(output / "refs(demo).p", pickle.dumps(number_references(refs), protocol=2))
    write_json(output / "instances.json", instances)
    write_json(output / "iid_to_ann_ids.json", {"iid_to_ann_ids": objects})
    return [sentence["sent"] for ref in refs if ref["split"] == "train" for sentence in ref["sentences"]]


def _commonsense(output: Path, split: Split, seed: int) -> list[str]:
    """Write `vcr_{split}.jsonl` and the metadata of its pictures, `vcr_metadata/{split}/*.json`.

    The labels of the test split are in a file of their own, `vcr_labels_test.jsonl`.
    """
    (output / "vcr_metadata" / split.name).mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for k, (image_id, scene) in enumerate(split.scenes.items()):
        stem = image_name(split.name, image_id).removesuffix(".png")
        files = {"img_fn": f"images/{split.name}/{stem}.png", "metadata_fn": f"vcr_metadata/{split.name}/{stem}.json"}
        # No fsync per file: the whole output folder is flushed before it appears.
        (output / files["metadata_fn"]).write_text(json.dumps(_metadata(scene)))
        n = int((k + 1) * EXAMPLES_PER_PICTURE[split.name]) - int(k * EXAMPLES_PER_PICTURE[split.name])
        for number, line in enumerate(problems(scene, generator(seed, "commonsense", image_id), n)):
            numbers = {"img_id": f"{split.name}-{k}", "question_number": number, "movie": "DEMO"}
            folds = {"match_fold": f"{split.name}-0", "match_index": len(lines)}
            lines.append({"annot_id": f"{split.name}-{len(lines)}"} | files | numbers | folds | line)
    sentences = [sentence for line in lines for sentence in sentences_without_tags(line)]
    if split.name == "test":
        label_keys = ("answer_label", "rationale_label")
        labels = [{"annot_id": line["annot_id"]} | {key: line.pop(key) for key in label_keys} for line in lines]
        _write_lines(output / "vcr_labels_test.jsonl", labels)
    _write_lines(output / f"vcr_{split.name}.jsonl", lines)
    return sentences


def _metadata(scene: Scene) -> dict[str, Any]:
    """The VCR metadata of a picture. Objects are listed from left to right; their outlines are their boxes."""
    things = left_to_right(scene)
    boxes = [[round(value, 2) for value in thing.box] for thing in things]
    outlines = [[[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]] for x1, y1, x2, y2 in boxes]
    names = [thing.shape for thing in things]
    return {"boxes": [[*box, 1.0] for box in boxes], "segms": outlines, "names": names, "width": SIZE, "height": SIZE}
