"""A store of another task, with the real scripts: every script with every task's store is refused at the start."""

import json
import shutil

import pytest

import pretrain
import train_itm
import train_nlvr2
import train_re
import train_vcr
import train_ve
import train_vqa
from tests.test_data_meaning import edit_text
from tests.test_data_store_faults import all_in, message
from tests.tiny_tasks import make_tasks, options
from tests.tiny_world import pretrain_options

SCRIPTS = {"vqa": train_vqa, "ve": train_ve, "nlvr2": train_nlvr2, "re": train_re, "vcr": train_vcr, "itm": train_itm}
LISTED = ("vqa", "vcr", "itm")  # scripts that name several training stores
STORES = {  # a store of each task, with the images that its texts name
    "vqa": ("vqa_raw", "img_db/tiny"),
    "ve": ("ve", "img_db/tiny"),
    "nlvr2": ("nlvr2", "img_db/tiny"),
    "re": ("refcoco_val", "img_db/re_coco_gt"),
    "vcr": ("vcr", "img_db/vcr_gt;img_db/tiny"),
    "captions": ("itm", "img_db/tiny"),
}
FIELDS = {"vqa": "target", "ve": "target", "nlvr2": "target", "re": "ann_id", "vcr": "input_ids_as"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def store_options(task: str, texts: str, images: str) -> dict:
    """The options that name a store for training and for validation, under the keys of a task's script."""
    texts = f"txt_db/{texts}.db"
    train = [[texts], [images]] if task in LISTED else [texts, images]
    ends = "s" if task in LISTED else ""
    return {f"train_txt_db{ends}": train[0], f"train_img_db{ends}": train[1], "val_txt_db": texts, "val_img_db": images}


def refusal(world, output, task: str, **changes) -> str:
    """The error of a training script, which leaves no weights."""
    made = {"train_boxes": "gt", "val_boxes": "gt"} if task == "re" else {}
    made |= {"regions": "gt"} if task == "vcr" and ";" not in str(changes) else {}
    made |= {"train_batch_size": 8} if task in ("re", "itm") else {}
    config = options(world, output, num_train_steps=1, valid_steps=1, **made | changes)
    text = message(lambda: SCRIPTS[task].main(["--config", str(config)]))
    assert not list(output.glob("ckpt/model*"))
    return text


def images_for(task: str, store: str) -> str:
    """The images of a store, in a variant that the task's script reads."""
    if task == "re":
        return "img_db/re_coco_gt" if store == "re" else "img_db/vcr_gt"
    if store == "re" and task != "vcr":
        return "img_db/re_coco_det"
    images = STORES[store][1]
    return images if task == "vcr" else images.split(";")[-1]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("task", SCRIPTS)
def test_a_store_of_another_task_is_refused(world, tmp_path, task, store):
    """By the field that shows it, or that is missing; VCR by its own file of lengths."""
    if task == store or (task == "itm" and store in ("captions", "vqa", "ve", "re")):  # retrieval takes any text
        return
    texts = STORES[store][0]
    text = refusal(world, tmp_path / "run", task, **store_options(task, texts, images_for(task, store)))
    all_in(text, f"{texts}.db", "key:", "found:", "expected:", "remedy:")
    if task == "vcr":
        assert "id2len_qa.json" in text
    else:
        field = "img_fname" if (task, store) == ("itm", "nlvr2") else FIELDS.get(store, "target")
        assert field in text.split("key:")[1].splitlines()[0], text


def test_retrieval_says_that_texts_are_no_captions(world, tmp_path, capsys):
    made = store_options("itm", *STORES["ve"]) | {"num_train_steps": 1, "valid_steps": 1, "train_batch_size": 4}
    train_itm.main(["--config", str(options(world, tmp_path / "run", **made))])
    all_in(capsys.readouterr().err, "WARNING retrieval takes the texts of", "ve.db", "target")


def test_pretraining_refuses_texts_of_vcr_and_says_other_texts(world, tmp_path, capsys):
    for store, tasks in (("vcr", ["mlm"]), ("ve", ["mlm", "itm"])):
        texts, images = STORES[store]
        source = {"name": store, "db": [f"txt_db/{texts}.db"], "img": [None if store == "vcr" else images]}
        source |= {"tasks": tasks, "mix_ratio": [1] * len(tasks)}
        config = pretrain_options(world, tmp_path / store, train_datasets=[source], val_datasets=[], num_train_steps=1)
        if store == "vcr":
            all_in(message(lambda: pretrain.main(["--config", str(config)])), "vcr.db")  # noqa: B023
        else:
            pretrain.main(["--config", str(config)])
    all_in(capsys.readouterr().err, "WARNING itm takes the texts of", "visual entailment")


@pytest.mark.parametrize("task", ["vqa", "ve", "nlvr2", "vcr"])
def test_a_validation_split_with_few_labels_is_refused(world, tmp_path, task):
    texts, images = STORES[task]
    partly = world / "txt_db" / f"partly_{tmp_path.name}.db"
    shutil.copytree(world / "txt_db" / f"{texts}.db", partly)
    id_ = list(json.loads(next(partly.glob("id2len*.json")).read_text()))[-1]
    edit_text(partly, id_, lambda record: {k: v for k, v in record.items() if k not in ("target", "qa_target")})
    made = store_options(task, texts, images) | {"val_txt_db": f"txt_db/{partly.name}"}
    text = refusal(world, tmp_path / "run", task, **made)
    all_in(text, partly.name, id_, "without a label", "found:    1 of")


@pytest.mark.parametrize(
    "box, named",
    [
        ([5, 5, 0, 9], "w and h above 0"),
        ([5, 5, -3, 9], "-3"),
        ([5, 5, 900, 9], "200 × 200 pixels"),
        ([-90, 5, 20, 9], "200 × 200"),
        ([1, 2, 3], "[1, 2, 3]"),
        ("no", "'no'"),
        ([1, 2, float("nan"), 3], "nan"),
    ],
)
def test_true_boxes_without_area_or_outside_their_image(world, tmp_path, box, named):
    odd = world / "txt_db" / f"odd_{tmp_path.name}.db"
    shutil.copytree(world / "txt_db" / "refcoco_val.db", odd)
    edit_text(odd, "502", lambda record: record | {"bbox": box})
    text = refusal(world, tmp_path / "run", "re", **store_options("re", odd.stem, STORES["re"][1]))
    all_in(text, odd.name, "502: bbox", named)


def test_regions_that_are_not_the_true_boxes(world, tmp_path):
    odd = world / "txt_db" / "odd_order.db"
    shutil.copytree(world / "txt_db" / "refcoco_val.db", odd)
    images = json.loads((odd / "images.json").read_text())
    (odd / "images.json").write_text(json.dumps([i | {"ann_ids": i["ann_ids"][1:] + i["ann_ids"][:1]} for i in images]))
    text = refusal(world, tmp_path / "run", "re", **store_options("re", odd.stem, STORES["re"][1]))
    all_in(text, "images.json", "sent_id", "whose box is", "the true box is", "iid_to_ann_ids")


def test_an_expression_about_another_image_than_its_own(world, tmp_path):
    odd = world / "txt_db" / "other_image.db"
    shutil.copytree(world / "txt_db" / "refcoco_val.db", odd)
    edit_text(odd, "500", lambda record: record | {"image_id": 7})
    text = refusal(world, tmp_path / "run", "re", **store_options("re", odd.stem, STORES["re"][1]))
    all_in(text, odd.name, "500: image_id", "found:    7", "visual_grounding_coco_gt_000000000000.npz")


def test_questions_of_which_none_has_an_answer_are_not_trained_on(world, tmp_path):
    odd = world / "txt_db" / "no_answers.db"
    shutil.copytree(world / "txt_db" / "vqa_raw.db", odd)
    for id_ in json.loads((odd / "id2len.json").read_text()):
        edit_text(odd, id_, lambda record: record | {"target": {"labels": [], "scores": []}})
    made = store_options("vqa", odd.stem, STORES["vqa"][1])
    all_in(refusal(world, tmp_path / "run", "vqa", **made), odd.name, "target", "an empty label, as in all others")


@pytest.mark.parametrize(
    "change, named",
    [
        ({"width": 0}, "entry 1: width|0|above 0"),
        ({"height": "200"}, "entry 1: height|'200'"),
        ({"id": None}, "entry 1: id|None"),
        ({"ann_ids": 5}, "entry 1: ann_ids|5"),
        ({"ann_ids": [1.5]}, "entry 1: ann_ids|[1.5]"),
    ],
)
def test_images_json_is_checked(world, tmp_path, change, named):
    odd = world / "txt_db" / f"odd_{tmp_path.name}.db"
    shutil.copytree(world / "txt_db" / "refcoco_val.db", odd)
    first, *rest = json.loads((odd / "images.json").read_text())
    (odd / "images.json").write_text(json.dumps([first | change, *rest]))
    text = refusal(world, tmp_path / "run", "re", **store_options("re", odd.stem, STORES["re"][1]))
    all_in(text, "images.json", *named.split("|"))
