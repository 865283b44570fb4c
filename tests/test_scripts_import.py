"""Import of features from tsv files of bottom-up attention and LXMERT."""

import base64
import gzip

import numpy as np
import pytest

from scripts import import_features
from utils.errors import InputError

LXMERT = [
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
]
BUTD = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]


def picture(seed=0, n=5, **changed):
    """The fields of a row as numbers and arrays."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 200, (n, 2))
    fields = {
        "img_id": f"COCO_train2014_{seed + 1:012}",
        "img_h": 333,
        "img_w": 500,
        "objects_id": rng.integers(0, 1600, n),
        "objects_conf": rng.uniform(0.1, 0.9, n).astype(np.float32),
        "attrs_id": rng.integers(0, 400, n),
        "attrs_conf": rng.uniform(0, 1, n).astype(np.float32),
        "num_boxes": n,
        "boxes": np.concatenate([corners, corners + rng.uniform(20, 120, (n, 2))], 1).astype(np.float32),
        "features": rng.gamma(0.5, 1, (n, 2048)).astype(np.float32),
    }
    return fields | changed


def line(fields, layout=LXMERT):
    older = {"image_id": fields["img_id"], "image_w": fields["img_w"], "image_h": fields["img_h"]}
    values = [(fields | older)[name] for name in layout]
    texts = [base64.b64encode(v.tobytes()).decode() if isinstance(v, np.ndarray) else str(v) for v in values]
    return "\t".join(texts) + "\n"


def run(folder, text, *flags, suffix=".tsv"):
    path = folder / f"features{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    import_features.main(["--tsv", str(path), "--output", str(folder / "npz"), *flags])
    return {file.name: dict(np.load(file)) for file in sorted((folder / "npz").glob("*.npz"))}


@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_the_lxmert_layout(tmp_path, suffix):
    rows = [picture(0), picture(1, n=36)]
    records = run(tmp_path, "\t".join(LXMERT) + "\n" + "".join(map(line, rows)), suffix=suffix)
    assert list(records) == ["coco_train2014_000000000001.npz", "coco_train2014_000000000002.npz"]
    for row, record in zip(rows, records.values()):
        order = np.argsort(-row["objects_conf"], kind="stable")
        assert np.allclose(record["conf"], row["objects_conf"][order], atol=1e-3)
        assert np.allclose(record["features"], row["features"][order], rtol=1e-3, atol=1e-6)
        corners = row["boxes"][order] / [500, 333, 500, 333]
        assert np.allclose(record["norm_bb"], np.c_[corners, corners[:, 2:] - corners[:, :2]], atol=1e-3)
        labels = record["soft_labels"].astype(float)
        assert (labels.argmax(1) == row["objects_id"][order] + 1).all()  # background is class 0
        assert np.allclose(labels.max(1), row["objects_conf"][order], atol=2e-3)
        assert np.allclose(labels.sum(1), 1, atol=2e-3)
        assert all(array.dtype == np.float16 for array in record.values())


def test_the_older_layout_has_no_classes(tmp_path):
    row = picture(3, img_id="42")
    records = run(tmp_path, line(row, BUTD), "--img_name", "coco_{split}_{image_id:012}.npz", "--split", "val2014")
    record = records["coco_val2014_000000000042.npz"]
    assert (record["conf"] == 0.5).all() and np.allclose(record["soft_labels"], 1 / 1601, atol=1e-5)
    assert np.allclose(record["features"], row["features"], rtol=1e-3, atol=1e-6)  # in the order of the row
    assert np.allclose(record["norm_bb"][:, 2], row["boxes"][:, 2] / 500, atol=1e-3)


@pytest.mark.parametrize(
    ("img_id", "flags", "expected"),
    [
        ("flickr.1000092795", [], "flickr.1000092795.npz"),
        ("dev-3-0-img1", ["--img_name", "nlvr2_{img_id}.npz"], "nlvr2_dev-3-0-img1.npz"),
        ("17", ["--img_name", "mine_{image_id:04}.npz"], "mine_0017.npz"),
    ],
)
def test_names(tmp_path, img_id, flags, expected):
    assert list(run(tmp_path, line(picture(img_id=img_id)), *flags)) == [expected]


def test_boxes_a_little_outside_are_cut(tmp_path):
    row = picture(n=2, boxes=np.array([[-3, 10, 90, 333.9], [400, 0, 501, 20]], np.float32))
    (record,) = run(tmp_path, line(row)).values()
    assert record["norm_bb"][:, :4].min() == 0 and record["norm_bb"].max() == 1


def spoilt(array, at, value):
    array = array.copy()
    array[at] = value
    return array


GOOD = picture()
BAD = {
    "a row of another number of columns": ("a\tb\tc\n", r"not one of a known tsv[\s\S]*line 1[\s\S]*3 columns"),
    "no base64": (line(GOOD | {"boxes": "%%%"}), "cannot be decoded"),
    "cut base64": (line(GOOD)[:-20] + "\n", "cannot be decoded"),
    "features of two widths": (
        line(GOOD) + line(picture(1, features=GOOD["features"][:, :1024])),
        r"another width[\s\S]*line 2[\s\S]*1024[\s\S]*2048",
    ),
    "another number of boxes": (line(GOOD | {"num_boxes": 6}), "cannot be decoded"),
    "no number of boxes": (line(GOOD | {"num_boxes": "many"}), "cannot be decoded"),
    "no boxes": (line(picture(n=0)), "the image has no boxes"),
    "NaN": (line(GOOD | {"features": spoilt(GOOD["features"], (2, 7), np.nan)}), r"features is out of range[\s\S]*nan"),
    "beyond half precision": (line(GOOD | {"features": spoilt(GOOD["features"], 0, 1e6)}), "features is out of range"),
    "an infinite box": (line(GOOD | {"boxes": spoilt(GOOD["boxes"], 0, np.inf)}), "boxes is out of range"),
    "a box inside out": (line(GOOD | {"boxes": GOOD["boxes"][:, [2, 3, 0, 1]]}), "a box is inside out"),
    "boxes of another size": (line(GOOD | {"boxes": GOOD["boxes"] + 600}), "lies outside its image"),
    "no size": (line(GOOD | {"img_w": 0}), "the size of the image is wrong"),
    "a class too many": (
        line(GOOD | {"objects_id": spoilt(GOOD["objects_id"], 1, 1600)}),
        r"class is out of range[\s\S]*1600",
    ),
    "a percentage": (line(GOOD | {"objects_conf": GOOD["objects_conf"] * 100}), "confidences are not probabilities"),
    "one picture twice": (line(GOOD) + line(GOOD), "two images get the same file name"),
    "nothing": ("", "the files hold no images"),
    "only a header": ("\t".join(LXMERT) + "\n", "the files hold no images"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_and_nothing_is_left(tmp_path, case):
    text, expected = BAD[case]
    with pytest.raises(InputError, match=expected) as raised:
        run(tmp_path, text)
    assert "features.tsv" in str(raised.value)
    assert not (tmp_path / "npz").exists()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"file not found[\s\S]*absent.tsv"):
        import_features.main(["--tsv", str(tmp_path / "absent.tsv"), "--output", str(tmp_path / "npz")])
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(line(GOOD).encode())[:5000])
    with pytest.raises(InputError, match=r"damaged[\s\S]*after line 0"):
        import_features.main(["--tsv", str(tmp_path / "cut.tsv.gz"), "--output", str(tmp_path / "npz")])
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00" * 100)
    with pytest.raises(InputError, match=r"not a tsv[\s\S]*UTF-16"):
        import_features.main(["--tsv", str(tmp_path / "binary.tsv"), "--output", str(tmp_path / "npz")])
