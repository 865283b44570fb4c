"""prepro.py on VCR: tags, lengths, and the files that it refuses."""

from pathlib import Path
from typing import Any

import pytest

from data.txt_store import TextStore
from data.txt_writer import TextWriter
from prepare.vcr import place_tokens
from tests.prepro_case import EXPECTED, prepare, tokenizer, variant
from tests.test_prepro import put, side
from utils.errors import InputError

OBJECTS = ["person", "person", "traffic light", "dog"]
VCR = {
    "annot_id": "val-1",
    "objects": OBJECTS,
    "img_fn": "lsmdc_x/x_00.01.46.736@0.jpg",
    "metadata_fn": "lsmdc_x/x_00.01.46.736@0.json",
    "question": ["why", "is", [0], "on", [1, 2], "?"],
    "answer_choices": [["he", "is"], [[1], "is"], ["the", "dog"], ["two"]],
    "rationale_choices": [["because", [0]], ["because"], ["because", "the", "dog", "is", "on", [2]], ["two"]],
    "answer_label": 2,
    "rationale_label": 0,
}
# 0 and 1 share the middle cell (4, 4); 1 leans to the right. 2 is at the top left, 3 outside on the bottom right.
BOXES = [[80, 40, 100, 50, 1.0], [84, 40, 100, 50, 0.9], [0, 0, 4, 4, 0.8], [175, 88, 189, 96, 0.7]]
METADATA = {"boxes": BOXES, "width": 180, "height": 90, "names": OBJECTS, "segms": []}


def vcr_files(folder: Path, line: Any = VCR, metadata: Any = METADATA) -> list[str]:
    """The options that name annotations and metadata."""
    place = folder / "vcr1images" / VCR["metadata_fn"]  # type: ignore[operator]
    place.parent.mkdir(parents=True, exist_ok=True)
    put(place, metadata)
    return ["--annotations", put(folder / "val.jsonl", [line]), "--metadata", str(folder / "vcr1images")]


def test_vcr(tmp_path: Path) -> None:
    record = prepare(tmp_path, "vcr", *vcr_files(tmp_path))["val-1"]
    encode, (_, high) = tokenizer(tmp_path).encode, tokenizer(tmp_path).v_range

    def ids(*parts: str | int) -> list[int]:
        return [id_ for part in parts for id_ in ([part] if isinstance(part, int) else encode(part))]

    first, second, lights = high + 40, high + 41, high  # row 4, columns 4 and, taken, 5; row 0, column 0
    assert record == {
        "input_ids": ids("why is person", first, "on person", second, "traffic light", lights, "?"),
        "input_ids_as": [ids("he is"), ids("person", second, "is"), ids("the dog"), ids("two")],
        "input_ids_rs": [
            ids("because person", first),
            ids("because"),
            ids("because the dog is on traffic light", lights),
            ids("two"),
        ],
        "img_fname": ["vcr_gt_x_00.01.46.736@0.npz", "vcr_x_00.01.46.736@0.npz"],
        "qa_target": 2,
        "qar_target": 0,
    }
    out = tmp_path / "x.db"
    assert (side(out, "id2len_qa.json"), side(out, "id2len_qar.json")) == ({"val-1": 11 + 3}, {"val-1": 14 + 8})
    assert not (out / "id2len.json").exists()
    assert TextStore(out, lengths="id2len_qa.json").lens.tolist() == [14] and TextStore(out).lens.tolist() == [22]
    assert side(out, "txt2img.json") == {"val-1": record["img_fname"]}


def test_vcr_tags_by_index_and_without_names(tmp_path: Path) -> None:
    objects, boxes = ["person"] * 90, [[0, 0, 9, 9]] * 90
    line = VCR | {"objects": objects, "question": [[0, 79], [80, 89], "?"]}
    options = ["--tags", "index", "--object_names", "none", "--gt_img_name", "gt/{stem}", "--img_name", "det/{stem}"]
    record = prepare(tmp_path, "vcr", *vcr_files(tmp_path, line, METADATA | {"boxes": boxes}), *options)["val-1"]
    high = tokenizer(tmp_path).v_range[1]
    assert record["input_ids"] == [high, high + 79, high + 80, high + 80, *tokenizer(tmp_path).encode("?")]
    assert record["img_fname"] == ["gt/x_00.01.46.736@0", "det/x_00.01.46.736@0"]


def test_vcr_test_split_and_excluded_pictures(tmp_path: Path) -> None:
    line = {key: value for key, value in VCR.items() if not key.endswith("_label")}
    record = prepare(tmp_path, "vcr", *vcr_files(tmp_path, line))["val-1"]
    assert (record["qa_target"], record["qar_target"]) == (-1, -1)
    listed = put(tmp_path / "list.txt", ["x_00.01.46.736@0.jpg"])
    with pytest.raises(InputError, match="no text is left"):
        prepare(tmp_path, "vcr", *vcr_files(tmp_path), "--exclude_images", listed, name="y.db")


def test_places_tell_objects_apart() -> None:
    """Each object gets the nearest free token, and all tokens differ, until no token is free."""
    corners = {0: (0.0, 0.0), 1: (1.0, 0.0), 2: (0.0, 1.0), 3: (1.2, 1.2), 4: (0.5, 0.5)}
    assert list(place_tokens(corners).values()) == [0, 8, 72, 80, 40]
    crowd = place_tokens({k: (0.5, 0.5) for k in range(83)})
    assert sorted(list(crowd.values())[:81]) == list(range(81)) and crowd[81] == crowd[82] == 40
    assert {crowd[k] for k in range(5)} == {40, 31, 39, 41, 49}


def test_vcr_lengths_are_those_of_the_golden(tmp_path: Path) -> None:
    """A length counts the question, the longest answer and, in the second file, the longest rationale."""
    golden = EXPECTED["vcr_like.db"]
    with TextWriter(tmp_path / "vcr.db", golden["side_files"]["meta.json"]) as writer:
        for id_, record in golden["records"].items():
            writer.add(id_, record)
    for name in ("id2len_qa.json", "id2len_qar.json", "txt2img.json", "meta.json"):
        assert side(tmp_path / "vcr.db", name) == golden["side_files"][name]
    assert not (tmp_path / "vcr.db" / "id2len.json").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (variant(VCR, "annot_id"), r"line 1\.annot_id"),
        (variant(VCR, "annot_id", to=""), r"line 1\.annot_id[\s\S]*511 bytes"),
        (variant(VCR, "objects"), r"line 1\.objects"),
        (variant(VCR, "objects", 0, to=5), r"line 1\.objects[\s\S]*list of names"),
        (variant(VCR, "img_fn"), r"line 1\.img_fn"),
        (variant(VCR, "img_fn", to="/"), r"line 1\.img_fn"),
        (variant(VCR, "metadata_fn"), r"line 1\.metadata_fn"),
        (variant(VCR, "question"), r"line 1\.question"),
        (variant(VCR, "question", 2, to=[4]), r"line 1\.question\[2\][\s\S]*\[4\][\s\S]*4 objects"),
        (variant(VCR, "question", 2, to=[]), r"line 1\.question\[2\]"),
        (variant(VCR, "question", 2, to=7), r"line 1\.question\[2\]"),
        (variant(VCR, "question", to=[""]), r"without words[\s\S]*id val-1"),
        (variant(VCR, "answer_choices", 3), r"line 1\.answer_choices[\s\S]*3 choices[\s\S]*4 choices"),
        (variant(VCR, "answer_choices", 3, to="no"), r"line 1\.answer_choices\.3"),
        (variant(VCR, "answer_choices", 3, to=[]), r"without words[\s\S]*id val-1"),
        (variant(VCR, "rationale_choices", 0, 1, to=[-1]), r"line 1\.rationale_choices\.0\[1\]"),
        (variant(VCR, "answer_label", to=4), r"line 1\.answer_label[\s\S]*found: +4"),
        (variant(VCR, "rationale_label", to="0"), r"line 1\.rationale_label"),
    ],
)
def test_bad_vcr_lines_are_refused(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, "vcr", *vcr_files(tmp_path, line))
    assert str(tmp_path / "val.jsonl") in str(error.value) and not (tmp_path / "x.db").exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (b"{", "not a JSON file"),
        (variant(METADATA, "width"), "key: +width"),
        (variant(METADATA, "height", to=0), "width, height"),
        (variant(METADATA, "boxes"), "key: +boxes"),
        (variant(METADATA, "boxes", 0), r"do not agree[\s\S]*3 boxes[\s\S]*4, one for each of the objects of val-1"),
        (variant(METADATA, "boxes", 1, to=[1, 2, 3]), r"boxes\[1\]"),
        (variant(METADATA, "boxes", 1, to=[1, 2, 3, float("nan")]), r"boxes\[1\]"),
    ],
)
def test_bad_vcr_metadata_is_refused(tmp_path: Path, metadata: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, "vcr", *vcr_files(tmp_path, VCR, metadata))
    assert "x_00.01.46.736@0.json" in str(error.value)


def test_vcr_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    other = VCR | {"annot_id": "val-2", "img_fn": "another/x_00.01.46.736@0.jpg"}
    files = vcr_files(tmp_path)
    put(tmp_path / "val.jsonl", [VCR, other])
    with pytest.raises(InputError, match=r"two images get the same name[\s\S]*vcr_x_00"):
        prepare(tmp_path, "vcr", *files)
