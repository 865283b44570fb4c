"""The probes of the demo's models, on a small world made by the demo's own commands."""

import re

import numpy as np
import pytest

from scripts import describe_regions
from scripts.demo_world import make_demo_data, probe
from scripts.demo_world.demo_tasks import GT_NAME
from scripts.demo_world.make_demo_data import CATEGORIES
from tests.tiny_world import run_script
from utils.errors import InputError

pytestmark = pytest.mark.slow  # it makes the demo's data


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    raw, npz = root / "raw", root / "npz" / "demo_coco_gt"
    make_demo_data.main(["--output", str(raw), "--n_train", "40", "--n_val", "20", "--n_test", "60"])
    images = [str(raw / "images" / split) for split in ("train", "val", "test")]
    boxes = ["--boxes", str(raw / "instances.json"), "--img_name", GT_NAME]
    describe_regions.main(["--images", *images, *boxes, "--output", str(npz)])
    flags = ["--conf_th", "-1", "--num_bb", "100", "--nproc", "1"]
    run_script("scripts/convert_imgdir.py", "--img_dir", npz, "--output", root / "img_db" / "demo_coco_gt", *flags)
    return root


def test_regions_are_those_of_their_objects(demo):
    world = probe.World(demo)
    assert len(world.captions) > 50  # of 80; the others have no caption whose words are all in so small a vocabulary
    names = np.array([GT_NAME.format(image_id=i).encode() for i in world.captions])
    for image_id, row in zip(world.captions, world.images.rows(names)):
        labels = world.images.read(int(row), soft_labels=True).soft_labels
        things = world.things(image_id)
        assert labels.argmax(1).tolist() == [CATEGORIES[thing.color, thing.shape] for thing in things]
        assert len(things) == len(world.pictures[image_id].feat)


def test_random_weights_show_regions_but_know_no_words(demo, capsys):
    probe.main(["--demo", str(demo), "--checkpoint", "None"])
    shown = capsys.readouterr().out
    lines = {line[2:24].strip(): re.findall(r"-?[\d.]+", line[24:]) for line in shown.splitlines()}
    assert set(lines) >= {"the embedder", "layer 1", "layer 3", "the most frequent", *probe.KINDS}
    texture, colour, shape, place, directions = map(float, lines["the embedder"])
    assert texture > 70 and colour > 90 and shape > 80 and place > 0.6 and 5 < directions < 128
    assert all(float(lines[kind][0]) < 25 and int(lines[kind][2]) > 5 for kind in probe.KINDS)
    assert sum(int(lines[kind][2]) for kind in probe.KINDS) > 500


def test_a_masked_word_is_the_one_that_is_asked_for(demo):
    world = probe.World(demo)
    image_id, (words, *_) = next(iter(world.captions.items()))
    seq = world.seq(words, image_id, masked=1)
    vocabulary = {k: word for word, k in world.vocabulary.items()}
    said = [vocabulary[k] for k in seq.input_ids]
    assert said == ["[CLS]", words[0], "[MASK]", *words[2:], "[SEP]"]
    assert (
        vocabulary[int(seq.targets["mlm_labels"][0])] == words[1]
        and said[int(seq.unit_targets["mlm_index"][0])] == "[MASK]"
    )


def test_images_of_another_seed_are_refused(demo, monkeypatch):
    """Their textures are not known, and a probe of wrong ones would look like a model that lost them."""
    monkeypatch.setattr(probe, "SEEDS", (43,))
    with pytest.raises(InputError, match="not those of the demo's seed"):
        probe.main(["--demo", str(demo), "--checkpoint", "None"])
