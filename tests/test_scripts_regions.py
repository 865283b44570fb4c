"""Region features without a detector: the descriptor, the sources of boxes, the files that are written."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest

from data.rng import generator
from prepare import regions
from prepare.boxes import imitate, read_instance_boxes
from prepare.regions import CROP, codebook, crops, describe, grid_boxes, project, pseudo_classes, soft_labels
from scripts import describe_regions
from scripts.demo_world.draw import draw
from scripts.demo_world.scene import make_scene
from utils.errors import InputError
from utils.formats import IMG_DIM, IMG_LABEL_DIM


def picture(i=0):
    return draw(make_scene(generator("scene", i)), generator("noise", i))


def describe_all(folder, *flags):
    describe_regions.main(["--output", str(folder), "--nproc", "1", *map(str, flags)])
    return {path.name: dict(np.load(path)) for path in sorted(folder.glob("*.npz"))}


def instances(folder, boxes):
    """A COCO instances JSON of {file name: [box, …]}, categories 7 and 9 in turn."""
    images = [{"id": 100 + k, "file_name": name} for k, name in enumerate(boxes)]
    rows = [
        {"image_id": 100 + k, "category_id": (7, 9)[n % 2], "bbox": box}
        for k, found in enumerate(boxes.values())
        for n, box in enumerate(found)
    ]
    content = {"images": images, "annotations": rows, "categories": [{"id": 9, "name": "b"}, {"id": 7, "name": "a"}]}
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Images of different kinds: grey, CMYK, with transparency, with a palette."""
    folder = tmp_path_factory.mktemp("pictures")
    picture(0).save(folder / "plain.png")
    picture(1).convert("L").save(folder / "grey.jpg")
    picture(2).convert("CMYK").resize((250, 130)).save(folder / "cmyk.JPG", format="JPEG")
    picture(3).convert("RGBA").save(folder / "clear.png")
    (folder / "inner").mkdir()
    picture(4).convert("P").save(folder / "inner" / "palette.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def check_records(records):
    for name, record in records.items():
        n = len(record["conf"])
        shapes = {"features": (n, IMG_DIM), "norm_bb": (n, 6), "conf": (n,), "soft_labels": (n, IMG_LABEL_DIM)}
        assert {key: array.shape for key, array in record.items()} == shapes, name
        assert all(array.dtype == np.float16 and np.isfinite(array).all() for array in record.values())
        box = record["norm_bb"].astype(float)
        assert (box >= 0).all() and (box <= 1).all() and (box[:, 4:] > 0).all()
        assert np.allclose(box[:, 2:4] - box[:, :2], box[:, 4:], atol=2e-3)
        assert (np.diff(record["conf"].astype(float)) <= 0).all()
        assert np.allclose(record["soft_labels"].astype(float).sum(1), 1, atol=2e-3)


def test_the_descriptor_stays_what_it_is():
    """A change makes all stores, and the models trained on them, useless: it needs a new `regions.VERSION`."""
    boxes = np.array([[10, 10, 60, 60], [0, 0, 192, 192], [100.5, 90.2, 150, 191]], float)
    descriptors = describe(crops(picture(), boxes))
    features = project(descriptors)
    assert features.shape == (3, IMG_DIM) and codebook().shape == (IMG_LABEL_DIM - 1, descriptors.shape[1])
    known = [[-1.586, 0.318, -4.891, -3.519], [-2.576, 3.115, -2.171, -0.970], [-6.201, 2.081, 2.451, 4.585]]
    assert regions.VERSION == 2 and np.allclose(features[:, :4], known, atol=2e-2), features[:, :4]
    assert 0.5 < features.std() < 3


def test_every_part_of_the_descriptor_counts_the_same():
    """Texture and mean colour, 15 of 390 numbers, would otherwise be lost beside the thumbnail and the outline."""
    mean, spread = regions._scale()
    variances = ((codebook() - mean) / spread * regions._weights()).var(0)
    lengths = [part.shape[1] for part in regions._parts(np.zeros((1, CROP, CROP, 3), np.float32))]
    shares = [part.sum() / variances.sum() for part in np.split(variances, np.cumsum(lengths)[:-1])]
    assert len(shares) == 7 and min(shares) > 0.11 and max(shares) < 0.17, shares


def test_features_tell_colours_shapes_and_textures():
    features, kinds = [], []
    for i in range(160):
        scene = make_scene(generator("scene", i))
        found = crops(draw(scene, generator("noise", i)), np.array([thing.box for thing in scene.things]))
        features.append(project(describe(found)))
        kinds += [(thing.color, thing.shape, thing.texture) for thing in scene.things]
    x, kinds = np.concatenate(features).astype(float), np.array(kinds)
    train = np.arange(len(x)) < 0.7 * len(x)
    gram = x[train] @ x[train].T + 100 * np.eye(train.sum())  # ridge regression on one-hot targets
    for k, least in enumerate((0.97, 0.93, 0.90)):
        targets = (kinds[:, k, None] == np.unique(kinds[:, k])).astype(float)
        guess = x[~train] @ (x[train].T @ np.linalg.solve(gram, targets[train]))
        assert (guess.argmax(1) == targets[~train].argmax(1)).mean() > least


def test_the_grid_has_36_different_boxes_within_the_picture():
    boxes = grid_boxes(640, 427)
    assert boxes.shape == (36, 4) and len(np.unique(boxes.round(3), axis=0)) == 36
    assert (boxes >= 0).all() and (boxes <= [640, 427, 640, 427]).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() > 100 and sides.max() == 640  # several scales


def test_pseudo_classes_are_spread_over_the_codebook():
    patches = np.concatenate([crops(picture(i), grid_boxes(192, 192)) for i in range(20)])
    labels = pseudo_classes(describe(patches))
    assert labels.shape == (720, IMG_LABEL_DIM) and np.allclose(labels.sum(1), 1) and (labels[:, 0] == 0).all()
    assert len(np.unique(labels.argmax(1))) > 40 and 0.05 < labels.max(1).mean() < 0.95


def test_soft_labels_of_a_class():
    labels = soft_labels(np.array([1, 1600]), np.array([0.9, 0.3]))
    assert np.allclose(labels.sum(1), 1) and (labels.argmax(1) == [1, 1600]).all()
    assert labels[0, 1] == pytest.approx(0.9 + 0.1 / IMG_LABEL_DIM)


def test_the_imitated_detector_errs_like_one():
    true = np.array([[20, 20, 60, 60], [100, 100, 160, 160], [30, 120, 60, 150]], float)
    classes = np.array([3, 5, 7])
    found = [imitate(true, classes, (192, 192), 48, generator("imitate", i)) for i in range(400)]
    extra = np.array([len(conf) for *_, conf in found]) - 3
    assert 0.6 < extra.mean() < 1.6 and extra.min() < 0 < extra.max()  # duplicates and false boxes, and a few misses
    boxes, kinds, conf = (np.concatenate(part) for part in zip(*found))
    error = np.abs(boxes[:, None] - true).max(2)  # distance of each box to each true box, in pixels
    near, which = error.min(1) < 12, error.argmin(1)
    assert 0.02 < (kinds[near] != classes[which[near]]).mean() < 0.12
    assert 0.3 < error[near].min(1).mean() < 6  # jitter
    assert conf[near].mean() > conf[~near].mean() + 0.2 and conf.min() >= 0.1 and conf.max() <= 0.98
    again = imitate(true, classes, (192, 192), 48, generator("imitate", 0))
    assert all((a == b).all() for a, b in zip(again, found[0]))


def test_bare_pictures_get_a_grid(photographs, tmp_path):
    records = describe_all(tmp_path / "npz", "--images", photographs)
    assert list(records) == ["clear.npz", "cmyk.npz", "grey.npz", "palette.npz", "plain.npz"]
    check_records(records)
    assert all(len(record["conf"]) == 36 and record["conf"].min() > 0.2 for record in records.values())
    provenance = json.loads((tmp_path / "npz" / "provenance.json").read_text())
    assert provenance["pictures_on_a_grid"] == 5 and provenance["pseudo_classes"] is True


def test_a_zip_is_as_good_as_a_folder_and_so_are_two_processes(photographs, tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in photographs.rglob("*"):
            archive.write(path, path.relative_to(photographs))
        archive.writestr("__MACOSX/._plain.png", b"resource fork")
    unpacked = describe_all(tmp_path / "a", "--images", photographs)
    zipped = describe_all(tmp_path / "b", "--images", tmp_path / "pictures.zip", "--nproc", 2)
    assert list(zipped) == list(unpacked)
    for name, record in unpacked.items():
        assert all((record[key] == zipped[name][key]).all() for key in record)


def test_boxes_for_some_pictures_and_a_grid_for_the_others(photographs, tmp_path):
    boxes = {"plain.png": [[10, 20, 30, 40], [100, 100, 50, 60], [190, 0, 2.5, 80], [192, 10, 5, 5]], "grey.jpg": []}
    known = instances(tmp_path, boxes)
    with pytest.raises(InputError, match=r"an image has no boxes[\s\S]*clear.png"):
        describe_all(tmp_path / "npz", "--images", photographs, "--boxes", known)
    assert not (tmp_path / "npz").exists()
    records = describe_all(tmp_path / "npz", "--images", photographs, "--boxes", known, "--grid")
    check_records(records)
    plain = records.pop("plain.npz")
    assert len(plain["conf"]) == 3 and all(len(record["conf"]) == 36 for record in records.values())  # one was outside
    expected = np.array([[10, 20, 40, 60], [100, 100, 150, 160], [190, 0, 192, 80]]) / 192
    assert np.allclose(plain["norm_bb"][:, :4], expected, atol=1e-3)
    assert (plain["soft_labels"].argmax(1) == [1, 2, 1]).all()  # categories in the order of their ids


def test_boxes_may_be_gzipped(tmp_path):
    known = instances(tmp_path, {"plain.png": [[10, 20, 30, 40]]})
    plain = read_instance_boxes(known)["plain.png"]
    known.write_bytes(gzip.compress(known.read_bytes()))
    zipped = read_instance_boxes(known)["plain.png"]
    assert zipped.image_id == plain.image_id == 100
    assert (zipped.boxes == [[10, 20, 40, 60]]).all()


def test_boxes_of_another_size_of_the_picture_are_refused(photographs, tmp_path):
    known = instances(tmp_path, {"plain.png": [[500, 300, 100, 100]]})
    with pytest.raises(
        InputError,
        match=r"a box lies outside[\s\S]*plain.png[\s\S]*\[500.0, 300.0, 100.0, 100.0\]",
    ):
        describe_all(tmp_path / "npz", "--images", photographs, "--boxes", known, "--grid")
    assert not (tmp_path / "npz").exists()


def test_imitated_boxes_depend_on_the_seed_and_the_picture_alone(photographs, tmp_path):
    both = {"plain.png": [[10, 20, 30, 40], [100, 100, 50, 60]], "clear.png": [[10, 20, 30, 40], [100, 100, 50, 60]]}
    known, alone = instances(tmp_path, both), tmp_path / "alone"
    alone.mkdir()
    picture(0).save(alone / "plain.png")
    flags = ("--imitate_detector", known, "--grid")
    records = describe_all(tmp_path / "a", "--images", photographs, *flags)
    check_records(records)
    assert (
        describe_all(tmp_path / "b", "--images", alone, *flags)["plain.npz"]["norm_bb"]
        == records["plain.npz"]["norm_bb"]
    ).all()
    other = describe_all(tmp_path / "c", "--images", alone, *flags, "--seed", 1)["plain.npz"]["norm_bb"]
    assert other.shape != records["plain.npz"]["norm_bb"].shape or (other != records["plain.npz"]["norm_bb"]).any()
    assert records["clear.npz"]["conf"].tolist() != records["plain.npz"]["conf"].tolist()


@pytest.mark.parametrize(
    ("name", "flags", "npz"),
    [
        ("COCO_val2014_000000000042.jpg", [], "coco_val2014_000000000042.npz"),
        ("000000000042.jpg", [], "000000000042.npz"),
        ("000000000042.jpg", ["--split", "val2017"], "coco_val2017_000000000042.npz"),
        (
            "DEMO_train_000000000042.png",
            ["--img_name", "demo_{split}_{image_id:06}.npz", "--split", "x"],
            "demo_x_000042.npz",
        ),
        ("my.dog.png", [], "my.dog.npz"),
    ],
)
def test_names_are_those_that_texts_use(tmp_path, name, flags, npz):
    (tmp_path / "pictures").mkdir()
    picture().save(tmp_path / "pictures" / name)
    assert list(describe_all(tmp_path / "npz", "--images", tmp_path / "pictures", *flags)) == [npz]


def test_pictures_with_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture().save(tmp_path / folder / "1.png")
    with pytest.raises(InputError, match="two images get the same file name"):
        describe_all(tmp_path / "npz", "--images", tmp_path / "a", tmp_path / "b")


def _cut(folder):
    buffer = io.BytesIO()
    picture().save(buffer, format="PNG")
    (folder / "cut.png").write_bytes(buffer.getvalue()[:2000])


def _no_png(folder):
    (folder / "text.png").write_text("hello")


@pytest.mark.parametrize("spoil", [_cut, _no_png])
def test_a_broken_picture_is_named_and_nothing_is_left(tmp_path, spoil):
    (tmp_path / "pictures").mkdir()
    spoil(tmp_path / "pictures")
    with pytest.raises(InputError, match=r"cannot be read[\s\S]*(cut|text)\.png"):
        describe_all(tmp_path / "npz", "--images", tmp_path / "pictures")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"images": []}, r"annotations\n[\s\S]*a list"),
        (
            {"images": [], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}]},
            r"annotations\[0\].bbox",
        ),
        ([], r"images\n[\s\S]*a list"),
    ],
)
def test_a_wrong_boxes_file_is_refused(photographs, tmp_path, content, expected):
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        describe_all(tmp_path / "npz", "--images", photographs, "--boxes", tmp_path / "boxes.json")


def test_boxes_and_an_imitation_at_once_are_refused(photographs, tmp_path):
    known = instances(tmp_path, {})
    with pytest.raises(InputError, match="give one of them"):
        describe_all(tmp_path / "npz", "--images", photographs, "--boxes", known, "--imitate_detector", known)
