"""What a model of the demo knows, without finetuning: linear probes of its region states, and masked words by kind.

    python -m scripts.demo_world.probe --checkpoint None demo/output/pretrain/ckpt/model_step_best.pt

For each checkpoint (None: random weights) two tables. The first says, after the embedder and after each layer, what a
linear probe reads from the state of a region beside a caption of its image: texture, colour and shape (share of right
answers), the place of its centre (R²), and how many directions the states use. The second masks one word of a caption
and says how often the model finds it, with the right image and with another one. Needs the stores of
`scripts/demo.sh --all`.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "by_path.py"))

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from data.batch import Example, Image, PackedBatch, Seq, collate
from data.img_store import ImageStore
from data.rng import generator
from data.text_image import read_image
from evaluation.probes import accuracy, effective_rank, r_squared
from model.model_json import read_model_json
from model.pretrain import UniterForPretraining
from model.weights import load_checkpoint
from scripts.demo_world.captions import EXTREMES
from scripts.demo_world.demo_tasks import GT_NAME
from scripts.demo_world.runner import SEEDS
from scripts.demo_world.scene import COLORS, SHAPES, TEXTURES, Thing, make_scene
from scripts.demo_world.words import NUMBERS, SYNONYMS
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import read_json
from utils.formats import IMG_DIM
from utils.options import option

KINDS = {  # kinds of words in captions, each with its words
    "colour": COLORS,
    "shape": SHAPES,
    "texture": TEXTURES,
    "size": ("small", "large"),
    "extreme": EXTREMES,
    "number": NUMBERS[:6],
    "relation": ("left", "right", "above", "below"),
    "comparison": ("more", "fewer", "many"),
}
BATCH = 400  # sequences


@dataclass(kw_only=True)
class ProbeConfig:
    """Options of the probes of the demo's models."""

    checkpoint: list[str] = option(help="weights to examine, or None for random ones")
    demo: str = option("demo", help="output folder of a finished scripts/demo.sh --all")
    model_config: str = option("config/demo-model.json", help="JSON file with the sizes of the model")


class World:
    """Images, captions and objects of the demo's validation and test splits."""

    def __init__(self, demo: Path):
        """`demo`: the demo's folder."""
        self.images = ImageStore(demo / "img_db" / "demo_coco_gt", conf_th=-1, num_bb=100)
        self.objects = read_json(demo / "npz" / "demo_coco_gt" / "iid_to_ann_ids.json")["iid_to_ann_ids"]
        self.vocabulary = {
            word: k for k, word in enumerate((demo / "raw" / "vocab.txt").read_text(encoding="utf-8").splitlines())
        }
        self.captions: dict[int, list[list[str]]] = defaultdict(list)
        for split in ("val", "test"):
            for entry in read_json(demo / "raw" / f"captions_{split}.json")["annotations"]:
                words = entry["caption"].split()
                if all(word in self.vocabulary for word in words):  # without misspelt words
                    self.captions[entry["image_id"]].append(words)
        instances = read_json(demo / "raw" / "instances.json")
        names = {category["id"]: category["name"] for category in instances["categories"]}
        self.names = {entry["id"]: names[entry["category_id"]] for entry in instances["annotations"]}
        self.instances_file = demo / "raw" / "instances.json"

    @cached_property
    def pictures(self) -> dict[int, Image]:
        """The regions of each image."""
        names = np.array([GT_NAME.format(image_id=i).encode() for i in self.captions])
        return {i: read_image(self.images, int(row)) for i, row in zip(self.captions, self.images.rows(names))}

    def things(self, image_id: int) -> list[Thing]:
        """The objects of an image, in the order of its regions; `InputError` when they are not those of its JSON.

        Textures are in no JSON, so the scene is drawn up again, with the demo's seed.
        """
        scene = make_scene(generator(SEEDS[0], "scene", image_id))
        annotations = self.objects[str(image_id)]
        for annotation in annotations:
            k = annotation % 100
            thing = f"{scene.things[k].color} {scene.things[k].shape}" if k < len(scene.things) else "no object"
            if thing != self.names[annotation]:
                raise InputError(
                    "the images are not those of the demo's seed",
                    file=self.instances_file,
                    key=f"annotation {annotation}",
                    found=self.names[annotation],
                    expected=f"{thing}, with seed {SEEDS[0]}",
                    remedy="give the folder of ./scripts/demo.sh --all",
                )
        return [scene.things[annotation % 100] for annotation in annotations]

    def seq(self, words: list[str], picture: int, masked: int | None = None) -> Seq:
        """A caption beside an image; `masked`: the number of the word to mask."""
        tokens = ["[CLS]", *words, "[SEP]"]
        if masked is None:
            return Seq(input_ids=self._ids(tokens), images=[self.pictures[picture]])
        label = self._ids([words[masked]])
        tokens[masked + 1] = "[MASK]"
        position = np.array([masked + 1])
        return Seq(
            input_ids=self._ids(tokens),
            images=[self.pictures[picture]],
            targets={"mlm_labels": label},
            unit_targets={"mlm_index": position},
        )

    def _ids(self, tokens: list[str]) -> np.ndarray:
        return np.array([self.vocabulary[token] for token in tokens], np.int64)


def batches(seqs: list[Seq]) -> list[PackedBatch]:
    """The sequences as batches of MLM."""
    examples = [Example(str(k), [seq]) for k, seq in enumerate(seqs)]
    return [collate("mlm", examples[k : k + BATCH], IMG_DIM) for k in range(0, len(examples), BATCH)]


def probe_regions(model: UniterForPretraining, world: World) -> None:
    """Print what linear probes read from the states of regions, layer by layer."""
    ids = [i for i, captions in world.captions.items() if captions]
    things = [thing for i in ids for thing in world.things(i)]
    test = np.repeat([k % 2 == 0 for k in range(len(ids))], [len(world.things(i)) for i in ids])
    layers: list[list[np.ndarray]] = []  # of each batch, the states after each layer
    for batch in batches([world.seq(world.captions[i][0], i) for i in ids]):
        all_states = [model.uniter.embed(batch), *model.uniter.all_layers(batch)]
        layers.append([states[batch.img_index].numpy() for states in all_states])
    print(f"  {'region states after':<22}{'texture':>9}{'colour':>9}{'shape':>9}{'place R²':>10}{'directions':>12}")
    attributes = {"texture": TEXTURES, "color": tuple(COLORS), "shape": SHAPES}
    labels = [
        np.array([values.index(getattr(thing, attribute)) for thing in things])
        for attribute, values in attributes.items()
    ]
    centers = np.array([(thing.x, thing.y) for thing in things])
    for layer, parts in enumerate(zip(*layers)):
        x, name = np.concatenate(parts), f"layer {layer}" if layer else "the embedder"
        shares = "".join(f"{100 * accuracy(x, of_things, test):7.1f} %" for of_things in labels)
        place = r_squared(x, centers, test).mean()
        print(f"  {name:<22}{shares}{place:10.2f}{effective_rank(x):12.1f}")
    guesses = [100 * np.bincount(of_things).max() / len(things) for of_things in labels]
    print(f"  {'the most frequent':<22}" + "".join(f"{guess:7.1f} %" for guess in guesses))


def probe_words(model: UniterForPretraining, world: World) -> None:
    """Print how often a masked word is found, by its kind, with the right image and with another one."""
    kinds = {word: kind for kind, words in KINDS.items() for one in words for word in SYNONYMS.get(one, (one,))}
    places = [
        (i, words, k, kinds[word])
        for i, captions in world.captions.items()
        for words in captions
        for k, word in enumerate(words)
        if word in kinds
    ]
    ids = list(world.captions)
    other = {i: ids[(k + 7) % len(ids)] for k, i in enumerate(ids)}
    hits: dict[str, list[np.ndarray]] = defaultdict(list)
    for side in ("right", "another"):
        for batch in batches([world.seq(words, i if side == "right" else other[i], k) for i, words, k, _ in places]):
            scores, _ = model.mlm(batch)
            hits[side].append((scores.argmax(1) == batch.targets["mlm_labels"]).numpy())
    right, another = (np.concatenate(hits[side]) for side in ("right", "another"))
    print(f"  {'masked words':<22}{'right image':>13}{'another image':>15}{'words':>8}")
    of_kind = np.array([kind for *_, kind in places])
    for kind in KINDS:
        chosen = of_kind == kind
        print(f"  {kind:<22}{100 * right[chosen].mean():11.1f} %{100 * another[chosen].mean():13.1f} %{chosen.sum():8}")


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    config, _ = parse(ProbeConfig, argv)
    world = World(Path(config.demo))
    torch.set_num_threads(1)
    for checkpoint in config.checkpoint:
        torch.manual_seed(SEEDS[0])
        model = UniterForPretraining(read_model_json(config.model_config)).eval()
        load_checkpoint(model, None if checkpoint == "None" else checkpoint)
        print(f"\n{'random weights' if checkpoint == 'None' else checkpoint}")
        with torch.inference_mode():
            probe_regions(model, world)
            probe_words(model, world)


if __name__ == "__main__":
    exit_on_input_error(main)
