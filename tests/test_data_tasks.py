"""Datasets of NLVR2 and referring expressions against the reference's batches; what they refuse."""

import json
import shutil

import numpy as np
import pytest

from data.batch import collate
from data.img_store import ImageStore
from data.mlm import Mlm
from data.nlvr2 import Nlvr2
from data.referring import ReferringExpressions, box_source
from data.retrieval import Retrieval
from data.rng import generator
from data.stores import GT_VARIANT
from data.txt_store import TextStore
from tests.golden_data import GOLDEN, IMG_DIM, arrays
from tests.unpack import text_of, to_padded
from utils.errors import InputError

FORMATS = GOLDEN / "data_formats"
RE_TEXTS = "refcoco_val_bert-base-cased.db"


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """A copy of the reference's stores."""
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "cache"))
    for part in ("img_db", "txt_db"):
        shutil.copytree(FORMATS / part, tmp_path / part, ignore=shutil.ignore_patterns(".index"))
    return tmp_path


def batch_of(data, indices):
    pairs = data.pairs(np.zeros((len(data), 3)))
    examples = [data.example(pairs[i].tolist(), generator(0)) for i in indices]
    return collate(data.task, examples, IMG_DIM), pairs


def check_units(batch, golden):
    """Tokens, features and places of every sequence, whatever the padding."""
    tokens, _ = to_padded(batch.input_ids, batch.txt_lens)
    np.testing.assert_array_equal(tokens.numpy(), golden["input_ids"])
    counts = batch.seqlens - batch.txt_lens
    for name, ours in (("img_feat", batch.img_feat), ("img_pos_feat", batch.img_pos_feat)):
        padded, there = to_padded(ours[batch.img_row].float(), counts)
        expected = golden[name] * there.numpy()[..., None]
        np.testing.assert_array_equal(padded.numpy(), expected)
    np.testing.assert_array_equal(batch.seqlens, golden["attn_masks"].sum(1))


@pytest.mark.parametrize("layout", ["triplet", "paired"])
def test_nlvr2_is_the_reference(stores, layout):
    golden = arrays(f"data_formats/expected/datasets/nlvr2_{layout}.npz")
    texts, images = TextStore(stores / "txt_db/nlvr2_dev.db"), ImageStore(stores / "img_db/nlvr2_dev")
    data = Nlvr2(texts, images, layout=layout, use_img_type=True)
    batch, pairs = batch_of(data, range(len(golden["qids"])))
    assert batch.ids == golden["qids"].tolist()
    np.testing.assert_array_equal(batch.targets["labels"], golden["targets"])
    np.testing.assert_array_equal(data.lens(pairs), golden["lens"])
    check_units(batch, golden)
    types, there = to_padded(batch.img_type_ids, batch.seqlens - batch.txt_lens)
    np.testing.assert_array_equal(types.numpy(), golden["img_type_ids"] * there.numpy())
    # The records may hold fewer boxes than were counted: `units` is at least what is there.
    there = [sum(batch.seqlens[batch.group == e].tolist()) for e in range(len(batch))]
    assert (data.units(pairs)[: len(batch)] >= there).all()
    plain = Nlvr2(texts, images, layout=layout, use_img_type=False)
    assert set(batch_of(plain, [0])[0].img_type_ids.tolist()) == {1}


def test_nlvr2_needs_two_pictures_and_others_one(stores):
    images = ImageStore(stores / "img_db/nlvr2_dev")
    with pytest.raises(InputError, match=r"not a text store of NLVR2[\s\S]*target[\s\S]*a record of VQA"):
        Nlvr2(TextStore(stores / "txt_db/vqa_like.db"), images, layout="paired", use_img_type=True)
    for task in (Mlm, Retrieval):
        with pytest.raises(InputError, match=rf"not a text store of {task.task}[\s\S]*images of each text: 2"):
            task(TextStore(next((stores / "txt_db").glob("nlvr2*"))), images)


def test_a_text_without_label_is_refused_wherever_it_stands(stores, monkeypatch):
    """A store of which some records alone have labels."""
    texts = TextStore(next((stores / "txt_db").glob("nlvr2*")))
    images = ImageStore(stores / "img_db/nlvr2_dev")
    data = Nlvr2(texts, images, layout="paired", use_img_type=True, require_labels=True)
    read = texts.read
    monkeypatch.setattr(texts, "read", lambda i: {key: v for key, v in read(i).items() if key != "target" or i != 3})
    uniform = np.zeros((len(data), 3))
    assert data.example(data.pairs(uniform)[2], generator(0)).targets["labels"] in (0, 1)
    with pytest.raises(InputError, match=f"{texts.id(3)}: target"):
        data.example(data.pairs(uniform)[3], generator(0))


@pytest.mark.parametrize(("name", "boxes"), [("re_train", "gt"), ("re_eval_gt", "gt"), ("re_eval_det", "detected")])
def test_referring_expressions_are_the_reference(stores, name, boxes):
    golden = arrays(f"data_formats/expected/datasets/{name}.npz")
    variant = GT_VARIANT if boxes == "gt" else {}
    images = ImageStore(stores / "img_db" / ("re_coco_gt" if boxes == "gt" else "re_coco_det"), **variant)
    data = ReferringExpressions(TextStore(stores / "txt_db" / RE_TEXTS), images, boxes)
    batch, _ = batch_of(data, range(6))
    check_units(batch, golden)
    np.testing.assert_array_equal(batch.txt_lens, golden["txt_lens"])
    np.testing.assert_array_equal(batch.seqlens - batch.txt_lens, golden["num_bbs"])
    if name == "re_train":
        np.testing.assert_array_equal(batch.targets["region_labels"], golden["targets"][:, 0])
        return
    assert batch.ids == golden["sent_ids"].tolist()
    ours = np.split(batch.targets["boxes"].numpy(), np.cumsum(golden["num_bbs"])[:-1])
    for i, box in enumerate(ours):
        np.testing.assert_array_equal(batch.targets["tgt_box"][i], golden[f"tgt_box.{i}"])
        np.testing.assert_allclose(box, golden[f"obj_boxes.{i}"], rtol=1e-6)


def test_the_true_region_is_the_place_of_its_annotation(stores):
    """In every picture, the region of the label has the box that the annotation says."""
    data = ReferringExpressions(
        TextStore(stores / "txt_db" / RE_TEXTS), ImageStore(stores / "img_db/re_coco_gt", **GT_VARIANT), "gt"
    )
    labels = set()
    for i in range(len(data)):
        example = data.example([i, data.pictures[i]], generator(0))
        label = int(example.targets["region_labels"][0])
        np.testing.assert_allclose(
            example.seqs[0].targets["boxes"][label], example.targets["tgt_box"][0], rtol=2e-3, atol=0.3
        )
        labels.add(label)
    assert len(labels) > 2  # not always the first


def test_boxes_in_another_number_than_listed_are_refused(stores):
    file = stores / "txt_db" / RE_TEXTS / "images.json"
    listed = json.loads(file.read_text())
    listed[0]["ann_ids"].append(99)
    file.write_text(json.dumps(listed))
    both = TextStore(stores / "txt_db" / RE_TEXTS), ImageStore(stores / "img_db/re_coco_gt", **GT_VARIANT)
    with pytest.raises(InputError, match=r"image_id 101\n.*5 boxes.*6 ann_ids"):
        ReferringExpressions(*both, "gt")
    ReferringExpressions(*both, "detected")


def test_a_true_box_that_is_not_listed_is_refused(stores, monkeypatch):
    texts = TextStore(stores / "txt_db" / RE_TEXTS)
    data = ReferringExpressions(texts, ImageStore(stores / "img_db/re_coco_gt", **GT_VARIANT), "gt")
    i, read = text_of(texts, "1"), texts.read
    monkeypatch.setattr(texts, "read", lambda i: read(i) | {"ann_id": 999})
    with pytest.raises(InputError, match=r"sent_id 1, image_id 101, ann_id 999"):
        data.example([i, data.pictures[i]], generator(0))


@pytest.mark.parametrize("lost", ["picture", "bbox"])
def test_records_that_images_json_does_not_fit_are_refused(stores, monkeypatch, lost):
    file = stores / "txt_db" / RE_TEXTS / "images.json"
    if lost == "picture":
        file.write_text(json.dumps([image for image in json.loads(file.read_text()) if image["id"] != 101]))
    texts = TextStore(stores / "txt_db" / RE_TEXTS)
    read = texts.read
    monkeypatch.setattr(texts, "read", lambda i: {key: value for key, value in read(i).items() if key != lost})
    expected = "image_id[\\s\\S]*101, which is not" if lost == "picture" else "bbox[\\s\\S]*no such field"
    with pytest.raises(InputError, match=expected):
        ReferringExpressions(texts, ImageStore(stores / "img_db/re_coco_gt", **GT_VARIANT), "gt")


def test_what_boxes_a_store_holds():
    assert box_source("img_db/re_coco_gt") == "gt" and box_source("/coco_gt/det") == "detected"
    assert box_source("img_db/re_coco_gt", "detected") == "detected" and box_source("x", "gt") == "gt"


def test_withheld_expressions_leave_two_tokens(stores):
    images = ImageStore(stores / "img_db/re_coco_gt", **GT_VARIANT)
    batch, _ = batch_of(
        ReferringExpressions(TextStore(stores / "txt_db" / RE_TEXTS), images, "gt", blind=True), range(3)
    )
    assert batch.txt_lens.tolist() == [2, 2, 2]
