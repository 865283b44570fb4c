"""prepro.py on referring expressions, and the order of boxes that describe_regions.py writes for it."""

import copy
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prepro
from tests.golden_data import GOLDEN
from tests.prepro_case import FORMATS, check_golden, prepare, tokenizer, use_golden_tokenizer, variant
from tests.test_prepro import put, read_store, side
from utils.errors import InputError

REFS = [
    {
        "ref_id": 7,
        "ann_id": 12,
        "image_id": 9,
        "split": "val",
        "sent_ids": [70, 71],
        "sentences": [
            {"sent_id": 70, "sent": "left dog", "tokens": ["left", "dog"], "raw": "LEFT dog"},
            {"sent_id": 71, "sent": "the dog", "tokens": ["the", "dog"], "raw": "the dog."},
        ],
        "category_id": 18,
        "file_name": "COCO_train2014_000000000009_12.jpg",
    },
    {"ref_id": 8, "ann_id": 11, "image_id": 10, "split": "train", "sentences": [{"sent_id": 80, "sent": "cat"}]},
]
INSTANCES = {
    "images": [
        {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 40, "width": 60, "license": 1},
        {"id": 10, "file_name": "COCO_train2014_000000000010.jpg", "height": 40, "width": 60},
    ],
    "annotations": [
        {"id": 10, "bbox": [1, 2, 30.5, 4], "image_id": 9, "category_id": 1, "segmentation": [[1, 2, 3]], "area": 9.5},
        {"id": 11, "bbox": [0, 0, 5, 5], "image_id": 10, "category_id": 1},
        {"id": 12, "bbox": [5, 6, 7, 8], "image_id": 9, "category_id": 18},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
}
ORDERS = {"iid_to_ann_ids": {"9": [12, 10], "10": [11]}}


def re_files(folder: Path, refs: Any = REFS, instances: Any = INSTANCES, orders: Any = ORDERS) -> list[str]:
    """The options that name the three files."""
    (folder / "refs(unc).p").write_bytes(refs if isinstance(refs, bytes) else pickle.dumps(refs, 2))
    files = ["--refs", str(folder / "refs(unc).p"), "--instances", put(folder / "instances.json", instances)]
    return [*files, "--iid_to_ann_ids", put(folder / "iid_to_ann_ids.json", orders)]


def test_refcocog_has_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Published results are of refs(umd).p, which has a test split; a note says so if refs(google).p is given."""
    flags = re_files(tmp_path, [ref | {"split": "test"} for ref in REFS])
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", "left", "the", "dog", "cat"]))
    for name in ("umd", "google"):
        refs = shutil.copy(flags[1], tmp_path / f"refs({name}).p")
        command = ["re", "--refs", str(refs), *flags[2:], "--split", "test", "--vocab", str(vocab)]
        prepro.main([*command, "--output", str(tmp_path / f"{name}.db")])
        assert len(read_store(tmp_path / f"{name}.db")) == 3
        assert ("published results are of refs(umd).p" in capsys.readouterr().out) == (name == "google")


def test_re_golden(tmp_path: Path, monkeypatch: Any) -> None:
    """The release's command, with the split in the output's name, and our command both give the release's store."""
    monkeypatch.chdir(GOLDEN)
    use_golden_tokenizer(monkeypatch)
    annotations = FORMATS / "annotations"
    refs = tmp_path / "refs(unc).p"
    refs.write_bytes(pickle.dumps(json.loads((annotations / "refs.json").read_text()), 2))
    files = [str(refs), *(f"data_formats/annotations/{name}.json" for name in ("instances", "iid_to_ann_ids"))]
    out = tmp_path / "refcoco_val_bert-base-cased.db"
    prepro.main(["--annotations", *files, "--output", str(out), "--task", "re", "--toker", "bert-base-cased"])
    check_golden(out, out.name, annotations=files)
    new = ["re", "--refs", files[0], "--instances", files[1], "--iid_to_ann_ids", files[2], "--split", "val"]
    prepro.main([*new, "--output", str(tmp_path / "new.db"), "--toker", "bert-base-cased"])
    assert read_store(tmp_path / "new.db") == read_store(out)
    with pytest.raises(InputError, match=r"no reference of that split[\s\S]*testB[\s\S]*testA, val"):
        prepro.main([*new[:-1], "testB", "--output", str(tmp_path / "b.db"), "--toker", "bert-base-cased"])


def test_re(tmp_path: Path) -> None:
    records = prepare(tmp_path, "re", *re_files(tmp_path), "--split", "val")
    assert list(records) == ["70", "71"]
    assert records["70"] == {
        "sent_id": 70,
        "sent": "left dog",
        "ref_id": 7,
        "ann_id": 12,
        "image_id": 9,
        "bbox": [5, 6, 7, 8],
        "input_ids": tokenizer(tmp_path).encode("left dog"),
        "img_fname": "visual_grounding_coco_gt_000000000009.npz",
    }
    out = tmp_path / "x.db"
    assert side(out, "refs.json") == REFS[:1] and side(out, "categories.json") == INSTANCES["categories"]
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 40, "width": 60}
    assert side(out, "images.json") == [image | {"ann_ids": [12, 10]}]
    first = {"id": 10, "area": 9.5, "bbox": [1, 2, 30.5, 4], "image_id": 9, "category_id": 1}
    assert side(out, "annotations.json") == [first, INSTANCES["annotations"][2]]
    detected = ["--img_name", "visual_grounding_det_coco_{image_id:012}.npz"]
    train = prepare(tmp_path, "re", *re_files(tmp_path), "--split", "train", *detected, name="train.db")
    assert train["80"]["img_fname"] == "visual_grounding_det_coco_000000000010.npz"


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("refs", {"a": 1}, r"refs\(unc\)\.p[\s\S]*a list of references"),
        ("refs", pickle.dumps(print), r"refs\(unc\)\.p[\s\S]*builtins\.print"),
        ("refs", variant(REFS, 1, "split"), r"refs\(unc\)\.p[\s\S]*\[1\]\.split"),
        ("refs", variant(REFS, 0, "image_id", to="9"), r"refs\(unc\)\.p[\s\S]*\[0\]\.image_id"),
        ("refs", variant(REFS, 0, "ref_id"), r"refs\(unc\)\.p[\s\S]*\[0\]\.ref_id"),
        ("refs", variant(REFS, 0, "sentences", 1, "sent"), r"refs\(unc\)\.p[\s\S]*\[0\]\.sentences\[1\]\.sent"),
        ("refs", variant(REFS, 0, "sentences", 1, "sent_id", to=70), r"refs\(unc\)\.p[\s\S]*id 70"),
        ("refs", variant(REFS, 0, "sentences", 1, "sent", to=""), r"without words[\s\S]*refs\(unc\)\.p[\s\S]*id 71"),
        ("refs", variant(REFS, 0, "box", to=np.zeros(2)), r"refs\(unc\)\.p[\s\S]*\[0\][\s\S]*not JSON"),
        (
            "refs",
            variant(REFS, 0, "ann_id", to=11),
            r"true region[\s\S]*refs\(unc\)\.p[\s\S]*ref_id 7[\s\S]*of image 9 in",
        ),
        ("refs", variant(REFS, 0, "image_id", to=3), r"instances\.json[\s\S]*images\[\]\.id 3"),
        ("instances", b"[]", r"instances\.json[\s\S]*images"),
        ("instances", variant(INSTANCES, "images", 0, "id"), r"instances\.json[\s\S]*images\[0\]\.id"),
        ("instances", variant(INSTANCES, "images", 0, "width", to=6.5), r"instances\.json[\s\S]*images\[0\]\.width"),
        ("instances", variant(INSTANCES, "annotations", 0, "bbox", 0), r"instances\.json[\s\S]*annotations\[0\]\.bbox"),
        ("instances", variant(INSTANCES, "annotations", 2, "id"), r"instances\.json[\s\S]*annotations\[2\]\.id"),
        ("instances", variant(INSTANCES, "categories"), r"instances\.json[\s\S]*categories"),
        ("orders", {}, r"iid_to_ann_ids\.json[\s\S]*key: +iid_to_ann_ids"),
        ("orders", variant(ORDERS, "iid_to_ann_ids", "9"), r"iid_to_ann_ids\.json[\s\S]*iid_to_ann_ids\.9"),
        ("orders", variant(ORDERS, "iid_to_ann_ids", "9", to=[12, 12]), r"iid_to_ann_ids\.9[\s\S]*all differ"),
        ("orders", variant(ORDERS, "iid_to_ann_ids", "9", to=[10]), r"true region[\s\S]*ref_id 7[\s\S]*of image 9"),
    ],
)
def test_bad_references_are_refused(tmp_path: Path, kind: str, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(tmp_path, "re", *re_files(tmp_path, **{kind: content}), "--split", "val")
    assert not (tmp_path / "x.db").exists()


def test_re_without_the_order_of_boxes_or_a_split_is_refused(tmp_path: Path) -> None:
    files = re_files(tmp_path)
    with pytest.raises(InputError, match=r"--iid_to_ann_ids[\s\S]*describe_regions\.py --boxes"):
        prepare(tmp_path, "re", *files[:4], "--split", "val")
    old = ["--annotations", *files[1::2], "--task", "re", "--toker", str(tokenizer(tmp_path).path)]
    with pytest.raises(InputError, match=r"output contains no split[\s\S]*prepro\.py re --split"):
        prepro.main([*old, "--output", str(tmp_path / "refcoco.db")])
    with pytest.raises(InputError, match="three annotation files"):
        prepro.main(["--annotations", files[1], *old[4:], "--output", str(tmp_path / "refcoco_val.db")])


def test_describe_regions_tells_the_order_of_its_boxes(tmp_path: Path) -> None:
    """Ground-truth features and `prepro.py re` agree on the true region, even if one box lies outside the image."""
    from PIL import Image

    from scripts import describe_regions

    (tmp_path / "pictures").mkdir()
    for image in INSTANCES["images"]:
        Image.new("RGB", (60, 40)).save(tmp_path / "pictures" / image["file_name"])
    instances = copy.deepcopy(INSTANCES)
    outside = {"id": 13, "bbox": [60.5, 35, 4, 5], "image_id": 9, "category_id": 1}
    instances["annotations"].insert(2, outside)
    files = re_files(tmp_path, instances=instances)
    naming = ["--img_name", "visual_grounding_coco_gt_{image_id:012}.npz", "--nproc", "1"]
    source = ["--images", str(tmp_path / "pictures"), "--boxes", files[3]]
    describe_regions.main([*source, *naming, "--output", str(tmp_path / "npz")])
    orders = tmp_path / "npz" / "iid_to_ann_ids.json"
    assert json.loads(orders.read_text()) == {"iid_to_ann_ids": {"9": [10, 12], "10": [11]}}
    record = prepare(tmp_path, "re", *files[:4], "--iid_to_ann_ids", str(orders), "--split", "val")["70"]
    region = side(tmp_path / "x.db", "images.json")[0]["ann_ids"].index(record["ann_id"])
    with np.load(tmp_path / "npz" / record["img_fname"]) as features:
        box = features["norm_bb"][region, [0, 1, 4, 5]] * [60, 40, 60, 40]
    np.testing.assert_allclose(box, record["bbox"], atol=0.05)
    imitated = ["--images", str(tmp_path / "pictures"), "--imitate_detector", files[3], *naming]
    describe_regions.main([*imitated, "--output", str(tmp_path / "det")])
    assert not (tmp_path / "det" / "iid_to_ann_ids.json").exists()


def test_a_real_reference(tmp_path: Path) -> None:
    if not (folder := os.environ.get("UNITER_REALDATA")):
        pytest.skip("UNITER_REALDATA names no folder of real data")
    refs = json.loads((Path(folder) / "refcoco" / "refs_unc_0.json").read_text())
    image = {"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "height": 640, "width": 427}
    box = {"id": 1719310, "bbox": [103.93, 299.99, 134.22, 177.42], "image_id": 581857, "category_id": 1}
    instances = {"images": [image], "annotations": [box], "categories": []}
    files = re_files(tmp_path, refs, instances, {"iid_to_ann_ids": {"581857": [1719310]}})
    records = prepare(tmp_path, "re", *files, "--split", "train")
    assert records["0"]["sent"] == "the lady with the blue shirt" and list(records) == ["0", "1", "2"]
