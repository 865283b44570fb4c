"""Generate the demo data: draw pictures, and write annotations of them in the official formats.

    python -m scripts.demo_world.make_demo_data --output demo/raw

For every split it writes `images/{split}/*.png`, COCO's `captions_{split}.json` and `instances_{split}.json`, VQA v2's
`questions_{split}.json` and `annotations_{split}.json` (in the test split only for scoring), `nlvr2_{split}.json`,
`snli_ve_{split}.jsonl`, and `vcr_{split}.jsonl` with `vcr_metadata/`. For all splits together it writes Karpathy's
`dataset_coco.json` and `dataset_flickr30k.json`, RefCOCO's `refs(demo).p` with `instances.json`, and `vocab.txt`.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "by_path.py"))

from dataclasses import dataclass
from multiprocessing import Pool
from typing import Any

import numpy as np

from data.rng import generator
from scripts.demo_world.captions import captions
from scripts.demo_world.draw import draw
from scripts.demo_world.questions import Asker, people_answer
from scripts.demo_world.scene import COLORS, SHAPES, SIZE, Scene, image_name, make_scene
from scripts.demo_world.tasks import Split, write_tasks
from scripts.demo_world.words import vocabulary
from utils.config import parse
from utils.errors import exit_on_input_error
from utils.files import atomic_write, new_folder, write_json
from utils.options import MOST, MOST_SEED, option

CATEGORIES = {pair: k + 1 for k, pair in enumerate((color, shape) for color in COLORS for shape in SHAPES)}


@dataclass(kw_only=True)
class DemoDataConfig:
    """Options of the demo data."""

    output: str = option(help="new folder for the generated files")
    seed: int = option(42, help="seed of every random choice", at_least=0, at_most=MOST_SEED)
    n_train: int = option(3000, help="number of training images", at_least=1, at_most=MOST)
    n_val: int = option(200, help="number of validation images", at_least=1, at_most=MOST)
    n_test: int = option(400, help="number of test images", at_least=1, at_most=MOST)
    n_captions: int = option(5, help="number of captions per image", at_least=1, at_most=10_000)
    n_questions: int = option(6, help="number of questions per image", at_least=1, at_most=10_000)
    nproc: int = option(2, help="number of processes that draw images", at_least=1, at_most=10_000)


def _draw_one(path: Path, scene: Scene, seed: int, image_id: int) -> None:
    # Noise hardly compresses: a higher level takes three times as long and makes files only 5 % smaller.
    draw(scene, generator(seed, "noise", image_id)).save(path, compress_level=1)


def make_split(config: DemoDataConfig, split: str, ids: range) -> Split:
    """Make the scenes, captions and boxes of a split; `write_split` draws the pictures."""
    seed = config.seed
    scenes = {i: make_scene(generator(seed, "scene", i)) for i in ids}
    texts = {i: captions(scene, generator(seed, "captions", i), config.n_captions) for i, scene in scenes.items()}
    images = [{"id": i, "file_name": image_name(split, i), "width": SIZE, "height": SIZE} for i in ids]
    return Split(name=split, scenes=scenes, captions=texts, instances=_instances(images, scenes))


def write_split(config: DemoDataConfig, output: Path, split: Split) -> list[str]:
    """Write the pictures, captions and questions of a split; returns its sentences, for the vocabulary."""
    seed, name = config.seed, split.name
    folder = output / "images" / name
    folder.mkdir(parents=True)
    with Pool(config.nproc) as pool:
        jobs = [(folder / image_name(name, i), scene, seed, i) for i, scene in split.scenes.items()]
        pool.starmap(_draw_one, jobs, chunksize=16)
    write_json(output / f"instances_{name}.json", split.instances)
    entries: list[dict[str, Any]] = [
        {"id": 100 * image_id + k, "image_id": image_id, "caption": caption}
        for image_id, texts in split.captions.items()
        for k, caption in enumerate(texts)
    ]
    write_json(output / f"captions_{name}.json", {"images": split.instances["images"], "annotations": entries})
    questions, annotations = _questions(config, split.scenes)
    header = {"info": {"description": f"demo world, seed {seed}"}, "data_type": "demo", "data_subtype": name}
    write_json(output / f"questions_{name}.json", header | {"questions": questions})
    write_json(output / f"annotations_{name}.json", header | {"annotations": annotations})
    return [entry["caption"] for entry in entries] + [question["question"] for question in questions]


def _instances(images: list[dict[str, Any]], scenes: dict[int, Scene]) -> dict[str, Any]:
    """The COCO instances of a split. A category is a pair of colour and shape."""
    annotations = []
    for i, scene in scenes.items():
        for k, thing in enumerate(scene.things):
            x1, y1, x2, y2 = thing.box
            box = [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)]
            category = CATEGORIES[thing.color, thing.shape]
            ids = {"id": 100 * i + k, "image_id": i, "category_id": category}
            annotations.append(ids | {"bbox": box, "area": round(box[2] * box[3], 2), "iscrowd": 0})
    categories = [{"id": k, "name": " ".join(pair), "supercategory": pair[1]} for pair, k in CATEGORIES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _questions(config: DemoDataConfig, scenes: dict[int, Scene]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The VQA v2 questions and annotations of a split."""
    asker, questions, annotations = Asker(), [], []
    for i, scene in scenes.items():
        rng = generator(config.seed, "questions", i)
        for k, question in enumerate(asker.ask(scene, rng, config.n_questions)):
            ids = {"image_id": i, "question_id": 1000 * i + k}
            questions.append(ids | {"question": question.text})
            answers = [
                {"answer": answer, "answer_confidence": str(rng.choice(["yes", "yes", "maybe"])), "answer_id": n + 1}
                for n, answer in enumerate(people_answer(question, rng))
            ]
            types = {"question_type": question.type, "answer_type": question.answer_type}
            annotations.append(ids | types | {"multiple_choice_answer": question.answer, "answers": answers})
    return questions, annotations


def main(argv: list[str] | None = None) -> None:
    """Generate the demo data."""
    config, _ = parse(DemoDataConfig, argv)
    sizes = np.cumsum([0, config.n_train, config.n_val, config.n_test]).tolist()
    bounds = zip(("train", "val", "test"), sizes, sizes[1:])
    splits = [make_split(config, name, range(start + 1, stop + 1)) for name, start, stop in bounds]
    with new_folder(config.output) as output:
        sentences = [write_split(config, output, split) for split in splits]
        more = write_tasks(output, splits, config.seed)
        atomic_write(output / "vocab.txt", ("\n".join(vocabulary(sentences[0], more)) + "\n").encode())
    print(f"{sizes[-1]} images and {sum(map(len, sentences))} sentences written to {config.output}")


if __name__ == "__main__":
    exit_on_input_error(main)
