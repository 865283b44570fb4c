"""The full scan of both stores: a report if there are no errors, else status 2 and one screen of errors."""

import json
import shutil

import lmdb
import msgpack
import msgpack_numpy
import numpy as np
import pytest

from data.img_store import ImageStore
from data.lmdb_io import Reader
from scripts import check
from tests.golden_data import GOLDEN
from tests.test_data_meaning import edit_text
from tests.tiny_tasks_vcr import make_vcr_world
from tests.tiny_world import run_script
from utils.errors import InputError


@pytest.fixture
def stores(tmp_path):
    return shutil.copytree(GOLDEN / "data_formats", tmp_path / "stores", ignore=shutil.ignore_patterns("expected"))


def edit(path, name: str, change) -> None:
    Reader(path).close()  # a path can be opened once in a process
    with lmdb.open(str(path), lock=False, map_size=1 << 26) as env, env.begin(write=True) as txn:
        record = msgpack.unpackb(txn.get(name.encode()), object_hook=msgpack_numpy.decode, raw=False)
        txn.put(name.encode(), msgpack.packb(change(record), default=msgpack_numpy.encode, use_bin_type=True))


def test_a_report(stores, capsys):
    check.main(["--txt_db", f"{stores}/txt_db/nlvr2_dev.db", "--img_db", f"{stores}/img_db/nlvr2_dev"])
    report = capsys.readouterr().out
    for part in ("20 texts about 8 images, 2 per text", "205 word pieces", "8 images, features of width 24"):
        assert part in report
    assert "NLVR2; 20 with labels; 0 are not in id2len.json" in report
    assert "6 to 79" in report and "13 classes" in report and "no errors found" in report
    check.main(["--img_db", f"{stores}/img_db/re_coco_gt", "--conf_th", "-1", "--num_bb", "100", "--img_dim", "24"])
    assert "4 images" in capsys.readouterr().out


def test_every_bad_record_is_counted(stores):
    folder = stores / "img_db" / "nlvr2_dev" / "feat_th0.2_max100_min10"
    edit(folder, "nlvr2_dev-0-1-img0.npz", lambda r: r | {"features": r["features"] * np.float16(np.inf)})
    edit(folder, "nlvr2_dev-1-1-img1.npz", lambda r: r | {"norm_bb": r["norm_bb"][:0]})
    done = run_script("-m", "scripts.check", "--img_db", stores / "img_db" / "nlvr2_dev", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for part in ("2 images cannot be used", "0-1-img0.npz", "1-1-img1.npz", "data.mdb", "remedy"):
        assert part in done.stderr


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--txt_db", "txt_db/vqa_like.db", "--img_db", "img_db/re_coco_det"], "8 of 8 images"),
        (["--img_db", "img_db/nlvr2_dev", "--img_dim", "2048"], "2048"),
        (["--img_db", "img_db/re_coco_gt"], "feat_numbb100"),
        (["--txt_db", "txt_db/none.db"], "none.db"),
        ([], "nothing to check"),
    ],
)
def test_stores_that_do_not_fit(stores, monkeypatch, flags, named):
    monkeypatch.chdir(stores)
    with pytest.raises(InputError, match=named):
        check.main(flags)


def few_labels(record):
    labels = record["soft_labels"][:, :5].astype(float)
    return record | {"soft_labels": (labels / labels.sum(1, keepdims=True)).astype(np.float16)}


def test_one_number_of_classes(stores):
    folder = stores / "img_db" / "re_coco_det" / "feat_th0.2_max100_min10"
    edit(folder, "visual_grounding_det_coco_000000000022.npz", few_labels)
    with pytest.raises(InputError, match="different numbers of soft labels"):
        check.main(["--img_db", str(stores / "img_db" / "re_coco_det")])


def test_files_that_contradict_each_other(stores):
    """The side files of a text store against its records and against each other; each is named, with both values."""
    names = ("vqa_like.db", "refcoco_val_bert-base-cased.db", "vcr_like.db")
    questions, expressions, choices = (stores / "txt_db" / name for name in names)
    for store in (questions, expressions, choices):
        check.main(["--txt_db", str(store)])
    cases = [
        (
            questions / "img2txts.json",
            lambda c: dict(zip(c, [*list(c.values())[1:], ["1000"]])),
            "contradict each other",
        ),
        (questions / "img2txts.json", lambda c: c | {"x.npz": ["nobody"]}, "x.npz: nobody|not in the store"),
        (questions / "img2txts.json", lambda c: c | {"x.npz": 5}, "x.npz|5|text ids"),
        (questions / "img2txts.json", lambda c: dict(list(c.items())[1:]), "nlvr2_dev-0-0-img0.npz: 1000|3 texts not"),
        (questions / "img2txts.json", lambda c: {k: [*v, v[0]] for k, v in c.items()}, ": 1000|8 texts more than once"),
        (questions / "txt2img.json", lambda c: c | {"1000": c["1001"]}, "1000: img_fname|as in txt2img.json"),
        (questions / "id2len.json", lambda c: c | {"1000": 7}, "1000|7 word pieces|3 word pieces"),
        (choices / "id2len_qa.json", lambda c: dict(list(c.items())[1:]), "val-0|different texts|id2len_qar.json"),
        (choices / "id2len_qa.json", lambda c: c | {"val-0": -5}, "val-0|-5"),
        (expressions / "images.json", lambda c: c[1:], "image_id|an image in images.json"),
        (expressions / "images.json", lambda c: [e | {"ann_ids": [99]} for e in c], "ann_id|[99]"),
        (expressions / "annotations.json", lambda c: [e | {"bbox": [1, 1, 5, 5]} for e in c], "bbox|[1, 1, 5, 5]"),
        (
            expressions / "annotations.json",
            lambda c: [e | {"bbox": [1, 1, -2, 5]} for e in c],
            "entry 1: bbox|[1, 1, -2, 5]",
        ),
        (expressions / "images.json", lambda c: [*c, c[0]], "id 101|2 entries"),
        (expressions / "refs.json", lambda c: [e | {"ann_id": "1"} for e in c], "entry 1: ann_id|'1'"),
        (expressions / "refs.json", lambda c: [e | {"ann_id": 99} for e in c], "ann_id|that annotations.json lacks|99"),
        (expressions / "annotations.json", lambda c: [e | {"image_id": 5} for e in c], "image_id|images.json lacks|5"),
        (expressions / "images.json", lambda c: [e | {"width": 50} for e in c], "bbox|50 × "),
        (expressions / "images.json", lambda c: [e | {"width": 10**40} for e in c], "width|at most 1,000,000"),
        (expressions / "categories.json", lambda c: {"a": 1}, "the whole file|a list of entries"),
    ]
    for file, change, named in cases:
        content = file.read_text()
        file.write_text(json.dumps(change(json.loads(content))))
        with pytest.raises(InputError) as error:
            check.main(["--txt_db", str(file.parent)])
        for part in (*named.split("|"), str(file.parent)):
            assert part in str(error.value), f"{part!r} not in:\n{error.value}"
        file.write_text(content)
    check.main(["--txt_db", str(questions)])


def test_texts_that_the_file_of_lengths_leaves_out_may_stay_in_the_other_files(stores, capsys):
    path = stores / "txt_db" / "vqa_like.db"
    lengths, by_picture = (json.loads((path / name).read_text()) for name in ("id2len.json", "img2txts.json"))
    (path / "id2len.json").write_text(json.dumps({id_: n for id_, n in lengths.items() if id_ > "1003"}))
    check.main(["--txt_db", str(path)])
    assert "4 are not in id2len.json" in capsys.readouterr().out
    (path / "txt2img.json").rename(path / "none")  # the records name the images too
    check.main(["--txt_db", str(path)])
    names = list(by_picture)
    (path / "img2txts.json").write_text(json.dumps(by_picture | {names[0]: [*by_picture[names[0]], "1001"]}))
    with pytest.raises(InputError, match=rf"{names[0]}: 1001[\s\S]*1 texts under an image that is not theirs"):
        check.main(["--txt_db", str(path)])


@pytest.mark.parametrize("table", ["nbb", "__keys__"])
def test_a_list_of_images_names_all_of_the_lmdb(stores, table):
    path = stores / "img_db" / "re_coco_det"
    counts, name = path / "nbb_th0.2_max100_min10.json", "visual_grounding_det_coco_000000000022.npz"
    if table == "nbb":
        content = json.loads(counts.read_text())
        counts.write_text(json.dumps({key: value for key, value in content.items() if key != name}))
    else:
        folder, names = path / "feat_th0.2_max100_min10", [key for key in json.loads(counts.read_text()) if key != name]
        with lmdb.open(str(folder), lock=False, map_size=1 << 26) as env, env.begin(write=True) as txn:
            txn.put(b"__keys__", json.dumps(names).encode())
    ImageStore(path).check()  # readers leave it out, or do not need the list
    with pytest.raises(InputError, match=rf"{name}[\s\S]*3 of 4 images"):
        check.main(["--img_db", str(path)])


def test_vcr_is_checked_with_both_of_its_image_stores(tmp_path, capsys):
    """Each store has the variant that training reads, and the images of its own column."""
    world = make_vcr_world(tmp_path, texts=8, pictures=4)
    texts, gt, detected = (
        world / "txt_db" / "vcr_val.db",
        world / "img_db" / "vcr_gt_tiny",
        world / "img_db" / "vcr_tiny",
    )
    for folders, count in ((f"{gt};{detected}", 2), (f"{detected};{gt}", 2), (gt, 1), (detected, 1)):
        check.main(["--txt_db", str(texts), "--img_db", str(folders), "--min_bb", "2"])
        assert capsys.readouterr().out.count("the image store holds all 4 images") == count
    check.main(["--img_db", f"{gt};{detected}", "--min_bb", "2"])
    assert "feat_numbb100: 4 images" in capsys.readouterr().out
    other = make_vcr_world(tmp_path / "other", texts=8, pictures=3)
    with pytest.raises(InputError, match=r"1 of 4 images[\s\S]*key: +vcr_3.npz"):
        check.main(["--txt_db", str(texts), "--img_db", f"{gt};{other}/img_db/vcr_tiny", "--min_bb", "2"])
    with pytest.raises(InputError, match=r"only VCR[\s\S]*vqa_like.db"):
        check.main(["--txt_db", f"{GOLDEN}/data_formats/txt_db/vqa_like.db", "--img_db", f"{gt};{detected}"])


def test_the_boxes_of_expressions_are_the_regions(stores, capsys):
    texts = stores / "txt_db" / "refcoco_val_bert-base-cased.db"
    gt = ["--img_db", f"{stores}/img_db/re_coco_gt", "--conf_th", "-1", "--num_bb", "100"]
    check.main(["--txt_db", str(texts), *gt])
    assert "the gt boxes of all 18 expressions" in capsys.readouterr().out
    check.main(["--txt_db", str(texts), "--img_db", f"{stores}/img_db/re_coco_det"])
    images = json.loads((texts / "images.json").read_text())
    (texts / "images.json").write_text(json.dumps([i | {"ann_ids": i["ann_ids"][::-1]} for i in images]))
    with pytest.raises(InputError, match=r"sent_id[\s\S]*whose box is[\s\S]*iid_to_ann_ids"):
        check.main(["--txt_db", str(texts), *gt])


def test_odd_boxes_are_counted_and_wrong_ones_refused(stores, capsys):
    folder = stores / "img_db" / "re_coco_det" / "feat_th0.2_max100_min10"
    name = "visual_grounding_det_coco_000000000022.npz"
    box = np.array([0.2, 0.3, 0.2, 0.5, 0, 0.2], np.float16)
    edit(folder, name, lambda r: r | {"norm_bb": np.concatenate([[box, box], r["norm_bb"][2:]])})
    check.main(["--img_db", str(stores / "img_db" / "re_coco_det")])
    assert "2 empty, 1 repeated, 0 outside" in capsys.readouterr().out
    edit(folder, name, lambda r: r | {"norm_bb": r["norm_bb"][:, [0, 1, 4, 5, 4, 5]]})
    with pytest.raises(InputError, match=r"1 images cannot be used[\s\S]*as if norm_bb held x, y, w, h"):
        check.main(["--img_db", str(stores / "img_db" / "re_coco_det")])


def wide(record, classes: int):
    labels = np.full((len(record["conf"]), classes), 1 / classes, np.float16)
    features = np.random.default_rng(0).normal(size=(len(labels), 2048)).astype(np.float16)
    return record | {"features": features, "soft_labels": labels}


@pytest.mark.parametrize("classes", [1600, 1601])
def test_features_of_the_published_width_have_the_published_classes(stores, capsys, classes):
    folder = stores / "img_db" / "re_coco_det" / "feat_th0.2_max100_min10"
    for number in (22, 101, 3003, 400004):
        edit(folder, f"visual_grounding_det_coco_{number:012}.npz", lambda r: wide(r, classes))
    flags = ["--img_db", str(stores / "img_db" / "re_coco_det")]
    if classes == 1601:
        check.main(flags)
        assert "1,601 classes\n" in capsys.readouterr().out
    else:
        with pytest.raises(InputError, match=r"as if background were missing[\s\S]*1601 classes"):
            check.main(flags)


def test_texts_with_few_labels(stores):
    path = stores / "txt_db" / "nlvr2_dev.db"
    edit_text(path, "dev-0-0-1", lambda record: {key: record[key] for key in record if key != "target"})
    with pytest.raises(InputError, match=r"dev-0-0-1[\s\S]*1 of 20 texts without a label"):
        check.main(["--txt_db", str(path)])
    edit_text(path, "dev-0-0-1", lambda record: record | {"target": {"labels": [1], "scores": [1.0]}})
    with pytest.raises(InputError, match=r"of several tasks[\s\S]*NLVR2, 1 of VQA"):
        check.main(["--txt_db", str(path)])


def all_rows(record, row) -> np.ndarray:
    return np.tile(np.asarray(row, np.float16), (len(record["conf"]), 1))


BLANKS = {  # what is blank → its array, the array of a failed extraction, the error, part of the report on three images
    "zeros": ("features", lambda r: r["features"] * 0, "the features of all regions are 0", "the same features: 3,"),
    "features": ("features", lambda r: all_rows(r, r["features"][0]), "have the same features", "same features: 3,"),
    "boxes": ("norm_bb", lambda r: all_rows(r, [0, 0, 1, 1, 1, 1]), "all regions have the same box", "same box: 3,"),
    "labels": ("soft_labels", lambda r: all_rows(r, np.eye(13)[0]), "are the background's", "their soft label: 3\n"),
}


@pytest.mark.parametrize("blank", BLANKS)
def test_what_a_failed_extraction_leaves_is_counted_and_refused_where_it_is_all(stores, capsys, blank):
    """When a run starts too, and the soft labels where a task reads them."""
    path = stores / "img_db" / "re_coco_det"
    array, change, title, part = BLANKS[blank]
    files = [f"visual_grounding_det_coco_{number:012}.npz" for number in (22, 101, 3003, 400004)]
    for file in files[:3]:
        edit(path / "feat_th0.2_max100_min10", file, lambda r: r | {array: change(r)})
    check.main(["--img_db", str(path)])
    report = capsys.readouterr().out
    assert part in report and ("blank: 0 regions" not in report) == (blank == "zeros")
    ImageStore(path).check()
    edit(path / "feat_th0.2_max100_min10", files[3], lambda r: r | {array: change(r)})
    with pytest.raises(InputError, match=rf"{title}[\s\S]*re_coco_det[\s\S]*{array}[\s\S]*in all 4 images"):
        check.main(["--img_db", str(path)])
    with pytest.raises(InputError, match=rf"{title}[\s\S]*{array}"):
        ImageStore(path).check()
        ImageStore(path).check_soft_labels(13)
    ImageStore(path, blind=True).check()  # the control hides features anyway
