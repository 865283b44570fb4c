"""prepro.py on NLVR2, retrieval and visual entailment: raw files to decoded records."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

import prepro
from tests.golden_data import GOLDEN
from tests.prepro_case import check_golden, prepare, tokenizer, use_golden_tokenizer, variant
from tests.test_prepro import put, side
from utils.errors import InputError


@pytest.mark.parametrize("command", [["--task", "nlvr"], ["nlvr2"]])
@pytest.mark.parametrize("missing", [None, "data_formats/annotations/missing_nlvr2_imgs.json"])
def test_nlvr2_golden(tmp_path: Path, monkeypatch: Any, command: list[str], missing: str | None) -> None:
    """The release's command and our command both give the release's store."""
    monkeypatch.chdir(GOLDEN)
    use_golden_tokenizer(monkeypatch)
    out = tmp_path / "x.db"
    options = ["--annotations", "data_formats/annotations/nlvr2_dev.json", "--output", str(out)]
    options += ["--toker", "bert-base-cased", *(["--missing_imgs", missing] if missing else [])]
    prepro.main([*command, *options] if len(command) == 1 else [*options, *command])
    check_golden(out, "nlvr2_dev_missing.db" if missing else "nlvr2_dev.db", task=command[-1])


NLVR2 = [
    {"identifier": "dev-0-0-0", "sentence": "two dogs", "label": "True", "synset": "a \ud83d b"},
    {"identifier": "dev-0-0-1", "sentence": "the cat", "label": "False"},
    {"identifier": "dev-1-2-0", "sentence": "a dog"},
]


def test_nlvr2(tmp_path: Path, capsys: Any) -> None:
    source = put(tmp_path / "dev.json.gz", gzip.compress("\n".join(map(json.dumps, NLVR2)).encode()))
    records = prepare(tmp_path, "nlvr2", "--annotations", source)
    assert records["dev-0-0-0"] == {
        "identifier": "dev-0-0-0",
        "sentence": "two dogs",
        "label": "True",
        "synset": "a  b",
        "input_ids": tokenizer(tmp_path).encode("two dogs"),
        "img_fname": ["nlvr2_dev-0-0-img0.npz", "nlvr2_dev-0-0-img1.npz"],
        "target": 1,
    }
    assert records["dev-0-0-1"]["target"] == 0 and "target" not in records["dev-1-2-0"]
    assert "3 of 3 texts, of 4 images" in capsys.readouterr().out
    right = put(tmp_path / "right.txt", ["dev-1-2-img1.png"])
    assert (
        list(prepare(tmp_path, "nlvr2", "--annotations", source, "--exclude_images", right, name="a.db"))
        == list(records)[:2]
    )
    with pytest.raises(InputError, match="no text is left"):  # both pictures must be listed
        prepare(tmp_path, "nlvr2", "--annotations", source, "--image_list", right, name="b.db")
    both = put(tmp_path / "both.txt", ["dev-1-2-img1.png", "dev-1-2-img0.png"])
    own = ["--image_list", both, "--img_name", "{stem}.npz"]
    left, _ = prepare(tmp_path, "nlvr2", "--annotations", source, *own, name="c.db")["dev-1-2-0"]["img_fname"]
    assert left == "dev-1-2-img0.npz"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (variant(NLVR2[1], "identifier"), r"line 2\.identifier"),
        (variant(NLVR2[1], "identifier", to="dev"), r"line 2\.identifier[\s\S]*dev-850-0-3"),
        (variant(NLVR2[1], "identifier", to="d" * 600 + "-0"), r"line 2\.identifier[\s\S]*511 bytes"),
        (variant(NLVR2[1], "sentence", to=5), r"line 2\.sentence[\s\S]*found: +5"),
        (variant(NLVR2[1], "sentence", to=" "), r"without words[\s\S]*id dev-0-0-1"),
        (variant(NLVR2[1], "label", to="true"), r"line 2\.label[\s\S]*'true'"),
        (variant(NLVR2[1], "label", to=1), r"line 2\.label[\s\S]*found: +1"),
        (variant(NLVR2[1], "identifier", to="dev-0-0-0"), r"twice[\s\S]*dev-0-0-0"),
        ("[]", r"line 2\.identifier"),
        ("{", r"not a JSON object[\s\S]*line 2"),
    ],
)
def test_bad_nlvr2_is_refused(tmp_path: Path, line: Any, message: str) -> None:
    source = put(tmp_path / "dev.json", [NLVR2[0], line])
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, "nlvr2", "--annotations", source)
    assert source in str(error.value) and not (tmp_path / "x.db").exists()


def test_a_bad_list_of_missing_pictures_is_refused(tmp_path: Path) -> None:
    source, missing = put(tmp_path / "dev.json", list(NLVR2)), put(tmp_path / "missing.json", {"a": 1})
    with pytest.raises(InputError, match=r"missing\.json[\s\S]*a list of image names"):
        prepare(tmp_path, "nlvr2", "--annotations", source, "--missing_imgs", missing)


COCO = {
    "images": [
        {
            "filepath": "val2014",
            "filename": "COCO_val2014_000000000391.jpg",
            "cocoid": 391,
            "imgid": 0,
            "split": "test",
            "sentids": [770337, 771687],
            "sentences": [
                {"tokens": ["a", "dog"], "raw": "A dog.", "imgid": 0, "sentid": 770337},
                {"tokens": ["two", "cats"], "raw": "two cats", "imgid": 0, "sentid": 771687},
            ],
        },
        {
            "filepath": "train2014",
            "filename": "COCO_train2014_000000000009.jpg",
            "cocoid": 9,
            "split": "restval",
            "sentences": [{"raw": "the street", "sentid": 5}],
        },
    ],
    "dataset": "coco",
}
FLICKR = {
    "images": [
        {"filename": "1000092795.jpg", "imgid": 0, "split": "train", "sentences": [{"raw": "two cats", "sentid": 0}]},
        {"filename": "36979.jpg", "imgid": 1, "split": "val", "sentences": [{"raw": "a dog", "sentid": 5}]},
    ]
}


def test_itm_on_coco(tmp_path: Path) -> None:
    source = put(tmp_path / "dataset_coco.json.gz", gzip.compress(json.dumps(COCO).encode()))
    records = prepare(tmp_path, "itm", "--karpathy", source, "--part", "test")
    key = "coco_val2014_000000000391.npz"
    assert records["770337"] == {
        "input_ids": tokenizer(tmp_path).encode("A dog."),
        "img_fname": key,
        "sentence": "A dog.",
    }
    assert side(tmp_path / "x.db", "txt2img.json") == {"770337": key, "771687": key}
    assert side(tmp_path / "x.db", "img2txts.json") == {key: ["770337", "771687"]}
    both = prepare(tmp_path, "itm", "--karpathy", source, "--part", "test", "restval", name="both.db")
    assert both["5"]["img_fname"] == "coco_train2014_000000000009.npz" and len(both) == 3


def test_itm_on_flickr30k(tmp_path: Path) -> None:
    source = put(tmp_path / "dataset_flickr30k.json", FLICKR)
    assert (
        prepare(tmp_path, "itm", "--karpathy", source, "--part", "val")["5"]["img_fname"]
        == "flickr30k_000000036979.npz"
    )
    train = prepare(tmp_path, "itm", "--karpathy", source, "--part", "train", name="t.db")
    assert train["0"]["img_fname"] == "flickr30k_001000092795.npz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", r"key: +images"),
        (variant(COCO, "images", 1, "split"), r"images\[1\]\.split"),
        (variant(COCO, "images", 0, "filename"), r"images\[0\]\.filename"),
        (variant(COCO, "images", 0, "filepath"), r"images\[0\]\.filepath"),
        (variant(COCO, "images", 0, "cocoid", to="391"), r"images\[0\]\.cocoid[\s\S]*'391'"),
        (variant(COCO, "images", 0, "sentences"), r"images\[0\]\.sentences"),
        (variant(COCO, "images", 0, "sentences", 1, "raw"), r"images\[0\]\.sentences\[1\]\.raw"),
        (variant(COCO, "images", 0, "sentences", 1, "sentid"), r"images\[0\]\.sentences\[1\]\.sentid"),
        (variant(COCO, "images", 0, "sentences", 1, "sentid", to=770337), r"twice[\s\S]*770337"),
        (variant(COCO, "images", 0, "split", to="val"), r"no image of that part[\s\S]*--part test[\s\S]*restval, val"),
        (variant(FLICKR, "images", 1) | {"images": [FLICKR["images"][0] | {"filename": "a_b.jpg", "split": "test"}]},
         r"name cannot be made[\s\S]*id 0[\s\S]*--img_name"),
    ],
)  # fmt: skip
def test_bad_karpathy_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    source = put(tmp_path / "dataset.json", content)
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, "itm", "--karpathy", source, "--part", "test")
    assert source in str(error.value)


VE = [
    {"Flickr30K_ID": "36979", "gold_label": "entailment", "sentence2": "a dog", "pairID": "36979.jpg#0r1e"},
    {"Flickr30K_ID": "36979", "gold_label": "-", "sentence2": "a cat", "pairID": "36979.jpg#0r1x"},
    {"Flickr30K_ID": "1000092795.jpg", "gold_label": "neutral", "sentence2": "two", "pairID": "1000092795.jpg#1r1n"},
    {"Flickr30K_ID": "36979", "gold_label": "contradiction", "sentence2": "the cat", "pairID": "36979.jpg#0r1c"},
]


def test_ve(tmp_path: Path, capsys: Any) -> None:
    records = prepare(
        tmp_path, "ve", "--annotations", put(tmp_path / "a.jsonl", VE[:2]), put(tmp_path / "b.jsonl", VE[2:])
    )
    assert records["36979.jpg#0r1e"] == {
        "input_ids": tokenizer(tmp_path).encode("a dog"),
        "img_fname": "flickr30k_000000036979.npz",
        "target": {"labels": [1], "scores": [1.0]},
        "sentence": "a dog",
    }
    assert [record["target"]["labels"] for record in records.values()] == [[2], [0], [1]]
    assert records["1000092795.jpg#1r1n"]["img_fname"] == "flickr30k_001000092795.npz"
    assert "1 examples without a label (-)" in capsys.readouterr().out
    listed = put(tmp_path / "flickr30k_test.lst", ["1000092795.jpg"])
    source = put(tmp_path / "all.jsonl", list(VE))
    assert list(prepare(tmp_path, "ve", "--annotations", source, "--image_list", listed, name="t.db")) == [
        "1000092795.jpg#1r1n"
    ]


@pytest.mark.parametrize("lines", [variant(VE, 0, "pairID"), variant(VE, 1, "pairID", to="36979.jpg#0r1e")])
def test_ve_without_usable_ids_is_numbered(tmp_path: Path, lines: list[dict[str, str]]) -> None:
    records = prepare(tmp_path, "ve", "--annotations", put(tmp_path / "a.jsonl", lines))
    assert {id_: record["target"]["labels"] for id_, record in records.items()} == {"0": [1], "2": [2], "3": [0]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (variant(VE[2], "gold_label"), r"line 2\.gold_label"),
        (variant(VE[2], "gold_label", to="maybe"), r"line 2\.gold_label[\s\S]*'maybe'[\s\S]*contradiction"),
        (variant(VE[2], "Flickr30K_ID"), r"line 2\.Flickr30K_ID"),
        (variant(VE[2], "Flickr30K_ID", to="dog.jpg"), r"line 2\.Flickr30K_ID[\s\S]*digits"),
        (variant(VE[2], "sentence2"), r"line 2\.sentence2"),
        (variant(VE[2], "sentence2", to="n" * 0), r"without words[\s\S]*1000092795\.jpg#1r1n"),
        (variant(VE[2], "pairID", to=5), r"line 2\.pairID"),
        (variant(VE[2], "pairID", to="x" * 512), r"pairID of example 1[\s\S]*511 bytes"),
        ("3", r"line 2\.gold_label"),
    ],
)
def test_bad_ve_lines_are_refused(tmp_path: Path, line: Any, message: str) -> None:
    source = put(tmp_path / "ve.jsonl", [VE[0], line])
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, "ve", "--annotations", source)
    assert source in str(error.value)


def test_real_files(tmp_path: Path) -> None:
    if not (folder := os.environ.get("UNITER_REALDATA")):
        pytest.skip("UNITER_REALDATA names no folder of real data")
    real = Path(folder)

    nlvr2 = prepare(tmp_path, "nlvr2", "--annotations", str(real / "nlvr2" / "dev.json.gz"))
    assert len(nlvr2) == 6982 and {record["target"] for record in nlvr2.values()} == {0, 1}
    assert nlvr2["dev-850-0-0"]["img_fname"] == ["nlvr2_dev-850-0-img0.npz", "nlvr2_dev-850-0-img1.npz"]
    ve = prepare(tmp_path, "ve", "--annotations", str(real / "snli_ve" / "sample_pairs.jsonl"), name="ve.db")
    assert ve["2248275918.jpg#2r1c"]["img_fname"] == "flickr30k_002248275918.npz"
    assert ve["2248275918.jpg#2r1c"]["target"] == {"labels": [0], "scores": [1.0]}
