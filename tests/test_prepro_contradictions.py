"""Annotation files that contradict each other, and ids, names and numbers that no store can hold, are refused.

Each error names the file and the entry; with `--skip_bad` the entry alone is left out.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.prepro_case import prepare, variant
from tests.test_prepro import ANNOTATIONS, CAPTIONS, QUESTIONS, put
from tests.test_prepro_re import INSTANCES, ORDERS, REFS, re_files
from tests.test_prepro_tasks import COCO, FLICKR, NLVR2, VE
from tests.test_prepro_vcr import METADATA, VCR, vcr_files
from utils.errors import InputError

CAPTION = {"id": "1", "image": "a.jpg", "text": "a dog"}


def more(content: Any, key: str, entry: Any) -> Any:
    """A copy of `content` with one more entry in its list `key`."""
    return content | {key: [*content[key], entry]}


def files_of(folder: Path, task: str, change: Any) -> list[str]:
    """The options of a subcommand whose files hold what `change` says."""
    if task == "coco":
        return ["captions", "--annotations", put(folder / "c.json", change)]
    if task == "captions":
        return ["captions", "--jsonl", put(folder / "c.jsonl", [CAPTION | {"id": "0"}, change])]
    if task == "vqa":
        questions, annotations = change
        files = ["--questions", put(folder / "q.json", questions), "--annotations", put(folder / "a.json", annotations)]
        return ["vqa", *files]
    if task == "re":
        return ["re", *re_files(folder, **change), "--split", "val"]
    if task == "itm":
        part = "val" if change["images"][0] == FLICKR["images"][0] else "test"
        return ["itm", "--karpathy", put(folder / "dataset.json", change), "--part", part]
    if task == "vcr":
        return ["vcr", *vcr_files(folder, **change)]
    return [task, "--annotations", put(folder / f"{task}.jsonl", change)]


def re_image(**change: Any) -> dict[str, Any]:
    return {"instances": more(INSTANCES, "images", INSTANCES["images"][0] | change)}


def re_box(*box: float, **change: Any) -> dict[str, Any]:
    """The true region with another box or other fields."""
    return {"instances": variant(INSTANCES, "annotations", 2, to=INSTANCES["annotations"][2] | {"bbox": box} | change)}


IMAGE = CAPTIONS["images"][0]
WITH_IMAGES = {"annotations": [entry | {"image_id": 9} for entry in ANNOTATIONS["annotations"]]}
CASES = [
    ("coco", more(CAPTIONS, "images", IMAGE | {"file_name": "COCO_val2014_000000000077.jpg"}), r"images\[2\]\.id"),
    ("coco", variant(CAPTIONS, "images", 1, "id", to=9), r"images\[1\]\.id"),
    ("coco", variant(CAPTIONS, "images", 1, "file_name", to="COCO_val2014_000000000026.jpg"), r"id 101[\s\S]* 25"),
    ("coco", variant(CAPTIONS, "annotations", 1, "id", to=2**70), r"annotations\[1\]\.id[\s\S]*71 bits"),
    ("coco", variant(CAPTIONS, "images", 1, "file_name", to="a\x00.jpg"), r"images\[1\]\.file_name"),
    ("captions", CAPTION | {"id": "a\x00"}, r"line 2\.id[\s\S]*control"),
    ("captions", CAPTION | {"id": "a\ud83d"}, r"line 2\.id[\s\S]*\\ud83d"),
    ("captions", CAPTION | {"id": "é" * 300}, r"line 2\.id[\s\S]*511 bytes"),
    ("captions", CAPTION | {"id": ""}, r"line 2\.id"),
    ("captions", CAPTION | {"id": 1.5}, r"line 2\.id[\s\S]*1\.5"),
    ("captions", CAPTION | {"id": ["a"]}, r"line 2\.id[\s\S]*a list of 1 texts"),
    ("captions", CAPTION | {"id": 10**30}, r"line 2\.id[\s\S]*bits"),
    ("captions", json.dumps(CAPTION).replace('"1"', "9" * 5000), r"line 2"),
    ("captions", '{"id": "1", "image": "a.jpg", "text": ' + "[" * 100000, r"line 2"),
    ("captions", CAPTION | {"image": "a\ud83d.jpg"}, r"line 2\.image"),
    ("captions", CAPTION | {"image": "a\nb.jpg"}, r"line 2\.image"),
    ("captions", CAPTION | {"image": "a" * 600 + ".jpg"}, r"id 1[\s\S]*511 bytes"),
    ("vqa", (QUESTIONS, WITH_IMAGES), r"a\.json[\s\S]*question_id 25000, image_id[\s\S]*25, as in"),
    ("vqa", (more(QUESTIONS, "questions", QUESTIONS["questions"][0]), ANNOTATIONS), r"twice[\s\S]*9000"),
    ("vqa", (QUESTIONS, variant(WITH_IMAGES, "annotations", 2, "image_id", to="25")), r"annotations\[2\]\.image_id"),
    ("itm", more(COCO, "images", COCO["images"][0]), r"images\[2\]\.filename[\s\S]*also in test"),
    ("itm", more(COCO, "images", COCO["images"][0] | {"split": "train"}), r"images\[2\]\.filename[\s\S]*in train, "),
    ("itm", more(COCO, "images", COCO["images"][0] | {"split": "train", "filename": "x.jpg"}), r"images\[2\]\.cocoid"),
    ("itm", variant(COCO, "images", 0, "filepath", to="train2014"), r"images\[0\]\.filepath[\s\S]*val2014"),
    ("itm", variant(COCO, "images", 0, "cocoid", to=392), r"id 770337[\s\S]*image_id 392"),
    ("itm", variant(COCO, "images", 0, "sentences", 1, "sentid", to=5), r"sentences\[1\][\s\S]*sentid 5"),
    ("itm", variant(FLICKR, "images", 1, "sentences", 0, to={"raw": "a", "sentid": 1, "imgid": 5}), r"imgid 5"),
    ("ve", variant(VE, 2, "Flickr30K_ID", to="36979"), r"line 3\.Flickr30K_ID[\s\S]*1000092795\.jpg#1r1n"),
    ("ve", variant(VE, 2, "Flickr30K_ID", to="9" * 5000), r"line 3\.Flickr30K_ID"),
    ("nlvr2", variant(list(NLVR2), 1, "identifier", to="dev-0-0-1-2-3"), r"line 2\.identifier[\s\S]*both image names"),
    ("nlvr2", [NLVR2[0], NLVR2[1] | {"synset": 10**25}], r"line 2[\s\S]*26 digits"),
    ("nlvr2", [NLVR2[0], json.dumps(NLVR2[1])[:-1] + ', "x": NaN}'], r"line 2[\s\S]*nan at x"),
    ("re", re_image(width=61), r"images\[2\]\.id"),
    ("re", {"instances": variant(INSTANCES, "images", 0, "height", to=0)}, r"images\[0\]\.height"),
    ("re", re_box(5, 6, 0, 8), r"ref_id 7[\s\S]*an area"),
    ("re", re_box(5, 6, -7, 8), r"annotations\[2\]\.bbox"),
    ("re", re_box(500, 600, 7, 8), r"ref_id 7[\s\S]*60 × 40"),
    ("re", re_box(5, 6, 70, 8), r"ref_id 7[\s\S]*inside of its image"),
    ("re", re_box(5, 6, float("nan"), 8), r"annotations\[2\]\.bbox"),
    ("re", re_box(5, 6, 7, 8, image_id=10), r"annotation 12, which is not of image 9"),
    ("re", {"instances": more(INSTANCES, "annotations", INSTANCES["annotations"][0] | {"id": 12})}, r"\[3\]\.id"),
    ("re", {"refs": [*REFS, REFS[0] | {"sentences": []}]}, r"\[2\]\.ref_id"),
    ("re", {"refs": variant(REFS, 0, "file_name", to="COCO_train2014_000000000010_12.jpg")}, r"ref_id 7\.file_name"),
    ("re", {"refs": variant(REFS, 0, "sent_ids", to=[70])}, r"\[0\]\.sentences\[1\][\s\S]*sent_id 71"),
    ("re", {"orders": {"iid_to_ann_ids": ORDERS["iid_to_ann_ids"] | {"9": [12, 10, 12]}}}, r"iid_to_ann_ids\.9"),
    ("re", {"orders": {"iid_to_ann_ids": ORDERS["iid_to_ann_ids"] | {"9": [12, 99]}}}, r"ann_ids\.9[\s\S]* 99"),
    ("re", {"instances": variant(INSTANCES, "images", 0, "width", to=2**62)}, r"images\[0\]\.width[\s\S]*1,000,000"),
    ("re", {"instances": variant(INSTANCES, "categories", 1, "name", to=5)}, r"categories\[1\]\.name"),
    ("vqa", (variant(QUESTIONS, "questions", 1, "image_id", to=-1), ANNOTATIONS), r"questions\[1\]\.image_id[\s\S]*-1"),
    ("coco", variant(CAPTIONS, "annotations", 1, "image_id", to=-1), r"annotations\[1\]\.image_id[\s\S]*-1"),
    ("vqa", (QUESTIONS | {"data_subtype": {}}, ANNOTATIONS), r"q\.json[\s\S]*data_subtype"),
    ("vcr", {"metadata": variant(METADATA, "names", 0, to="dog")}, r"names\[0\][\s\S]*person"),
    ("vcr", {"metadata": variant(METADATA, "boxes", 0, to=[100, 40, 80, 50, 1])}, r"boxes\[0\][\s\S]*x1 not above x2"),
    ("vcr", {"metadata": variant(METADATA, "boxes", 0, to=[800, 40, 900, 50, 1])}, r"boxes\[0\][\s\S]*180 × 90"),
    ("vcr", {"line": VCR | {"metadata_fn": "lsmdc_x/x_00.01.46.736@1.json"}}, r"line 1\.metadata_fn[\s\S]*@0\.jpg"),
    ("vcr", {"line": variant(VCR, "rationale_label")}, r"line 1[\s\S]*answer_label and rationale_label"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "change", "message"), CASES)
def test_contradictions_and_impossible_values_are_refused(tmp_path: Path, task: str, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, *files_of(tmp_path, task, change))
    assert str(tmp_path) in str(error.value) and not (tmp_path / "x.db").exists()


@pytest.mark.parametrize(("task", "change", "kept"), [
    ("captions", CAPTION | {"id": "a\x00"}, ["0"]),
    ("coco", variant(CAPTIONS, "annotations", 1, "id", to=2**70), ["100", "102"]),
    ("vqa", (QUESTIONS, WITH_IMAGES), ["9000", "9001"]),
    ("itm", more(COCO, "images", COCO["images"][0]), ["770337", "771687"]),
    ("ve", variant(VE, 2, "Flickr30K_ID", to="36979"), ["36979.jpg#0r1c", "36979.jpg#0r1e"]),
])  # fmt: skip
def test_with_skip_bad_such_entries_alone_are_left_out(tmp_path: Path, task: str, change: Any, kept: list[str]) -> None:
    assert sorted(prepare(tmp_path, *files_of(tmp_path, task, change), "--skip_bad")) == kept
    assert (tmp_path / "x.db.left_out.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("vqa", QUESTIONS["questions"], r"a list of 3 objects[\s\S]*keys question_id[\s\S]*at the root"),
        ("vqa", {"data": QUESTIONS}, r"keys data[\s\S]*at the root of the file, an object with the key questions"),
        ("vqa", {"questions": {"9": "what"}}, r"found: +an object with the keys 9[\s\S]*expected: a list"),
        ("vqa", "text", r"found: +'text'[\s\S]*an object with the key questions"),
        ("nlvr2", [list(NLVR2)], r"not JSON lines[\s\S]*a JSON list[\s\S]*one JSON object in each line"),
        ("ve", ["{", '"a": 1}'], r"not JSON lines[\s\S]*several lines"),
    ],
)  # fmt: skip
def test_files_of_another_shape_are_told_what_belongs_at_the_root(
    tmp_path: Path, task: str, content: Any, message: str
) -> None:
    change = (json.dumps(content).encode(), ANNOTATIONS) if task == "vqa" else content
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, *files_of(tmp_path, task, change))
    assert "what is on the street" not in str(error.value)  # the shape, not the content


def test_one_image_of_two_splits_in_two_files_is_refused(tmp_path: Path) -> None:
    other = variant(CAPTIONS, "images", 0, "file_name", to="COCO_train2014_000000000009.jpg")
    other |= {"annotations": [entry | {"id": entry["id"] + 500} for entry in CAPTIONS["annotations"]]}
    files = [put(tmp_path / "c1.json", CAPTIONS), put(tmp_path / "c2.json", other)]
    message = r"c2\.json[\s\S]*id 600, image_id 9[\s\S]*train2014[\s\S]*val2014, as for id 100 of .*c1\.json"
    with pytest.raises(InputError, match=message):
        prepare(tmp_path, "captions", "--annotations", *files)
    put(tmp_path / "c2.json", variant(other, "images", 0, to=CAPTIONS["images"][0]))
    assert len(prepare(tmp_path, "captions", "--annotations", *files)) == 6
    questions = [QUESTIONS, {"data_subtype": "val2014", "questions": [QUESTIONS["questions"][0] | {"question_id": 5}]}]
    paths = [put(tmp_path / f"q{k}.json", content) for k, content in enumerate(questions)]
    with pytest.raises(InputError, match=r"q1\.json[\s\S]*id 5, image_id 9[\s\S]*train2014, as for id 9000"):
        prepare(tmp_path, "vqa", "--questions", *paths, name="y.db")


def test_numbers_of_captions_may_be_written_as_text(tmp_path: Path) -> None:
    content = json.dumps(CAPTIONS).replace('"id": 9,', '"id": "9",').replace('"id": 100', '"id": "100"')
    records = prepare(tmp_path, "captions", "--annotations", put(tmp_path / "c.json", content.encode()))
    assert records["100"]["img_fname"] == "coco_val2014_000000000009.npz"


def test_another_category_than_that_of_the_true_region_is_a_warning(tmp_path: Path, capsys: Any) -> None:
    prepare(tmp_path, *files_of(tmp_path, "re", {}))
    assert "WARNING" not in capsys.readouterr().out
    prepare(tmp_path, *files_of(tmp_path, "re", {"refs": variant(REFS, 0, "category_id", to=1)}), name="y.db")
    printed = capsys.readouterr().out
    assert "WARNING: 1 of 1 references" in printed and "ref_id 7: 1 and 18" in printed


def test_annotations_without_question_are_counted(tmp_path: Path, capsys: Any) -> None:
    questions = QUESTIONS | {"questions": QUESTIONS["questions"][:1]}
    assert list(prepare(tmp_path, *files_of(tmp_path, "vqa", (questions, ANNOTATIONS)))) == ["9000"]
    assert "2 annotations have no question in these files" in capsys.readouterr().out


def test_contrast_sets_of_nlvr2_have_images_of_their_own(tmp_path: Path) -> None:
    lines = [{"identifier": f"test1-769-1-0-{k}", "sentence": "a dog", "label": "True"} for k in (1, 2)]
    records = prepare(tmp_path, *files_of(tmp_path, "nlvr2", lines))
    images = ["nlvr2_test1-769-1-0-2-img0.npz", "nlvr2_test1-769-1-0-2-img1.npz"]
    assert records["test1-769-1-0-2"]["img_fname"] == images


def test_ordinary_names_stay_allowed(tmp_path: Path) -> None:
    """White space of other scripts and accents occur in people's files; identical entries contradict nothing."""
    line = CAPTION | {"id": "1\u00a0é", "image": "Bild\u202f1 (ä).jpg"}
    assert prepare(tmp_path, *files_of(tmp_path, "captions", line))["1\u00a0é"]["img_fname"] == "Bild\u202f1 (ä).npz"
    content = more(CAPTIONS, "images", IMAGE)
    assert len(prepare(tmp_path, *files_of(tmp_path, "coco", content), name="y.db")) == 3


def test_half_of_a_surrogate_pair_is_dropped_from_answers_and_categories(tmp_path: Path) -> None:
    """JSON can hold it, files cannot; the texts of questions and captions lose it too."""
    answers = variant(ANNOTATIONS, "annotations", 1, "answers", 0, "answer", to="yes\ud800")
    records = prepare(tmp_path, *files_of(tmp_path, "vqa", (QUESTIONS, answers)))
    assert len(records) == 3 and "yes" in json.loads((tmp_path / "x.db" / "ans2label.json").read_text())
    change = {"instances": variant(INSTANCES, "categories", 1, "name", to="dog\ud800")}
    prepare(tmp_path, *files_of(tmp_path, "re", change), name="y.db")
    assert json.loads((tmp_path / "y.db" / "categories.json").read_text())[1]["name"] == "dog"


@pytest.mark.parametrize(
    "pattern", ["{stem:>99999999999}", "{stem:" + "9" * 5000 + "}", "{stem", "{nothing}", "{0}", "{stem.x}", " "]
)
def test_formats_of_image_names_that_make_no_name(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"name cannot be made[\s\S]*--img_name"):
        prepare(tmp_path, *files_of(tmp_path, "captions", CAPTION), "--img_name", pattern)
