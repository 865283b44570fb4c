"""NLVR as an added task: the page's own commands on a few examples, and what they stand on."""

import io
import json
import re
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from data.batch import collate
from data.img_store import ImageStore
from data.rng import generator
from data.txt_store import TextStore
from examples.nlvr1.data import Contrast, Judge
from examples.nlvr1.head import UniterForNlvr1
from examples.nlvr1.panels import IMG_DIM, Scale, count, describe, objects, transform
from examples.nlvr1.pixels import CANVAS, VisualWords
from examples.nlvr1.prepare import corners, main, read_examples, reorder
from examples.nlvr1.words import Vocabulary, rewrite
from model.uniter import UniterConfig
from tests.tiny_world import ROOT
from tests.unpack import sequences

FIXTURE = ROOT / "tests" / "fixtures" / "nlvr1"
PAGE = (ROOT / "examples" / "nlvr1" / "README.md").read_text()
COLOURS, SHAPES = ("Black", "#0099ff", "Yellow"), ("circle", "square", "triangle")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    output = tmp_path_factory.mktemp("nlvr1") / "stores"
    main(["--data", str(FIXTURE), "--output", str(output), "--statements", "60"])
    return output


def open_data(stores, name, pictures, dataset, **options):
    images = ImageStore(stores / "img_db" / pictures, max_bb=32, min_bb=1)
    return dataset(TextStore(stores / "txt_db" / f"{name}.db"), images, Scale.load(stores / "scale.npz"), **options)


def annotated_objects(example):
    """The objects of an example as its annotation has them."""
    return np.array(
        [
            (p, COLOURS.index(o["color"]), SHAPES.index(o["type"]), o["size"], o["x_loc"], o["y_loc"])
            for p, things in enumerate(example["structured_rep"])
            for o in things
        ]
    )


@pytest.mark.slow
def test_the_page_s_commands_run_as_written(tmp_path):
    block = re.search(r"<!-- tested -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
    assert block
    commands = block[1].replace("\\\n", " ").replace("nlvr1/try", str(tmp_path / "try")).splitlines()
    assert len(commands) >= 4
    for command in commands:
        line = shlex.split(command)
        assert line[0] == "python"
        result = subprocess.run([sys.executable, *line[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((tmp_path / "try" / "finetune" / "results_dev" / "results_best_all.json").read_text())
    dev = [json.loads(line)["identifier"] for line in (FIXTURE / "dev.json").open()]
    assert set(results["answers"]) == {f"dev-{i}-{k}" for i in dev for k in range(6)}
    assert set(results["scores"]) == {"acc", "consistency", "loss"}
    whole = json.loads((tmp_path / "try" / "whole" / "results.json").read_text())
    assert set(whole) == {"42"}


def test_pixels_tell_what_the_annotation_says_in_all_six_orders():
    examples, visual_words = read_examples(FIXTURE / "dev.json"), VisualWords()
    with zipfile.ZipFile(FIXTURE / "images_dev.zip") as archive:
        for example in examples:
            for k, order in enumerate(((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))):
                data = archive.read(f"dev-{example['identifier']}-{k}.png")
                boxes = reorder(corners(example), k)
                words = visual_words.of(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), boxes)
                expected = annotated_objects(example)
                expected[:, 0] = [order.index(p) for p in expected[:, 0]]
                assert (objects(words, boxes / CANVAS) == expected).all()


def test_a_symmetry_moves_picture_and_words_together():
    scene = np.array([[0, 0, 0, 10, 5, 90], [1, 1, 2, 20, 50, 30], [2, 2, 1, 30, 70, 0]])
    words = ["there", "is", "a", "black", "circle", "and", "a", "blue", "triangle", "touching", "the", "right", "wall"]
    rng = np.random.default_rng(0)
    sides = set()
    for _ in range(50):
        new_scene, new_words = transform(scene, words, rng)
        paint, outline = ("black", "blue", "yellow"), ("circle", "square", "triangle")
        by_size = {int(o[3]): o for o in new_scene}
        assert new_words[3:5] == [paint[by_size[10][1]], outline[by_size[10][2]]]
        assert new_words[7:9] == [paint[by_size[20][1]], outline[by_size[20][2]]]
        side = new_words[-2]
        sides.add(side)
        assert by_size[30][4] == (70 if side == "right" else 0)
        assert by_size[10][5] == 90 and sorted(new_scene[:, 0]) == [0, 1, 2]  # upright: a side is named
    assert sides == {"left", "right"}


@pytest.mark.parametrize(
    ("sentence", "label", "expected"),
    [
        ("there is a black tower", 1, {"there is a black tower": 1, "there is no black tower": 0}),
        ("there is no black tower", 1, {"there is no black tower": 1, "there is a black tower": 0}),
        (
            "there are exactly two blocks",
            1,
            {
                **{f"there are exactly {n} blocks": 0 for n in ("one", "three", "four")},
                **{f"there are at least {n} blocks": int(n in ("one", "two")) for n in ("one", "two", "three", "four")},
                "there are exactly two blocks": 1,
            },
        ),
        ("there are exactly two blocks", 0, {"there are exactly two blocks": 0}),
        ("a box with exactly one circle", 1, {f"a box with {p} one circle": 1 for p in ("exactly", "at least")}),
        ("each box has at least one circle", 1, {"each box has at least one circle": 1}),
    ],
)
def test_rewritten_truth_follows(sentence, label, expected):
    truths: dict[str, set[int]] = {}
    rng = np.random.default_rng(0)
    for _ in range(400):
        words, truth = rewrite(sentence.split(), label, rng)
        truths.setdefault(" ".join(words), set()).add(truth)
    assert truths == {words: {truth} for words, truth in expected.items()}


def test_words_are_mended():
    vocabulary = Vocabulary()
    words = vocabulary.decode(vocabulary.read("There are atleast 2 yelow blicks, wth a BLUE bse."))
    assert " ".join(words) == "there are at least two yellow blocks with a blue base"


def test_counts_are_the_panels_own():
    scene = np.array([[0, 0, 1, 20, 40, 80], [0, 0, 1, 20, 40, 59], [2, 2, 0, 10, 0, 30]])
    counts = count(scene, describe(scene)[1])
    sizes, storeys, tops, below = counts[:, :3], counts[:, 3:15], counts[:, 15:18], counts[:, 18:27]
    assert sizes.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]
    assert storeys[0].tolist() == [1, 0, 0] * 2 + [0] * 6  # a black thing on the floor, another over it
    assert tops.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert below[0].tolist() == [1] + [0] * 8 and below[2].sum() == 0  # one black thing stands on a black one
    figures, all_objects = counts[:, 34:43], counts[:, 49]
    assert figures[0].tolist() == [0, 2] + [0] * 7 and figures[2].tolist() == [0] * 6 + [1, 0, 0]
    assert all_objects.tolist() == [2, 0, 1]
    assert counts[:, -5:].tolist() == [[1, 1, 1, 2, 2], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]


def test_batches_hold_what_they_announce(stores):
    for name, pictures, dataset, options in (
        ("train", "train", Judge, {"augment": True, "rewrite_share": 1.0}),
        ("train", "train", Contrast, {"augment": True}),
        ("dev", "dev", Judge, {"augment": False}),
        ("dev", "dev", Judge, {"augment": True, "copies": 3}),
    ):
        data = open_data(stores, name, pictures, dataset, **options)
        pairs = data.pairs(np.random.default_rng(0).random((len(data), 3)))
        examples = [data.example(pair, generator(0, i)) for i, pair in enumerate(pairs.tolist())]
        batch = collate(data.task, examples, data.img_dim)
        if options.get("rewrite_share"):  # other words may be fewer
            assert batch.units <= data.units(pairs).sum()
        else:
            assert batch.units == data.units(pairs).sum()
        assert batch.img_feat.shape[1] == IMG_DIM
        if dataset is Contrast:
            assert batch.targets["labels"].view(-1, 2).tolist() == [[1, 0]] * len(data)
            seqs = sequences(batch)
            words = [seqs[2 * i : 2 * i + 2] for i in range(len(batch))]
            assert all((true.input_ids == false.input_ids).all() for true, false in words)


def test_the_head_sees_panels_apart_and_batches_do_not_matter(stores):
    data = open_data(stores, "dev", "dev", Judge, augment=False)
    examples = [data.example(pair, generator(0)) for pair in data.pairs(np.zeros((len(data), 3))).tolist()]
    torch.manual_seed(0)
    config = UniterConfig(**json.loads((ROOT / "examples" / "nlvr1" / "model.json").read_text()))
    model = UniterForNlvr1(config).eval()
    in_one_batch = model(collate("judge", examples, IMG_DIM))
    one_by_one = torch.cat([model(collate("judge", [example], IMG_DIM)) for example in examples])
    torch.testing.assert_close(in_one_batch, one_by_one, atol=1e-4, rtol=1e-4)
    assert in_one_batch.std(0).min() > 1e-3
