"""Import of features: header lines, layouts of other projects, damaged files, `--skip_bad`."""

import gzip
import json

import numpy as np
import pytest

from scripts import import_features
from tests.test_scripts_import import BUTD, LXMERT, line, picture, run
from utils.errors import InputError

WIDE = picture(3, img_id="7", img_w=640, img_h=250)  # one box at x 560: outside if width and height are exchanged
WIDE["boxes"][0] = [10, 20, 560, 240]


def header(layout):
    return "\t".join(layout) + "\n"


@pytest.mark.parametrize("order", [[0, 2, 1, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
@pytest.mark.parametrize("first", ["", "\ufeff"])
def test_the_header_line_is_obeyed(tmp_path, order, first):
    layout = [BUTD[k] for k in order]
    (record,) = run(tmp_path, first + header(layout) + line(WIDE, layout)).values()
    corners = WIDE["boxes"] / [640, 250, 640, 250]
    np.testing.assert_allclose(record["norm_bb"][:, :4], corners, atol=1e-3)


def test_a_header_may_have_more_columns_and_come_again_in_another_order(tmp_path):
    text = header(["note", *LXMERT]) + "hello\t" + line(picture(0)) + "\r\n \t\n" + header(BUTD) + line(WIDE, BUTD)
    records = run(tmp_path, text)
    assert sorted(records) == ["7.npz", "coco_train2014_000000000001.npz"]
    assert records["7.npz"]["norm_bb"][0, 2] == np.float16(560 / 640)


def test_a_header_that_lacks_a_column_is_refused(tmp_path):
    layout = ["image_id", "w", "h", "num_boxes", "boxes", "features"]
    with pytest.raises(InputError, match=r"header[\s\S]*line 1: img_w, img_h[\s\S]*w, h[\s\S]*rename the columns"):
        run(tmp_path, header(layout) + line(WIDE, BUTD), "--skip_bad")  # rows of an unknown order are not left out


def test_exchanged_sides_without_a_header_are_noticed(tmp_path):
    with pytest.raises(InputError, match=r"outside its image[\s\S]*width and height are exchanged"):
        run(tmp_path, line(WIDE, [BUTD[k] for k in (0, 2, 1, 3, 4, 5)]))


def test_boxes_in_shares_are_noticed(tmp_path):
    shares = (WIDE["boxes"] / [640, 250, 640, 250]).astype(np.float32)
    with pytest.raises(InputError, match=r"the boxes are shares[\s\S]*pixels of an image of 640 × 250"):
        run(tmp_path, line(WIDE | {"boxes": shares}, BUTD))


@pytest.mark.parametrize("layout", [[*BUTD, "cls_prob"], [*LXMERT, "cls_prob", "attrs", "classes"]])
def test_class_probabilities_of_the_file_become_soft_labels(tmp_path, layout):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(1601) / 50, 5).astype(np.float32)
    best = {"objects_id": probabilities[:, 1:].argmax(1)}
    row = (
        picture(1)
        | best
        | {"cls_prob": probabilities, "attrs": np.ones((5, 401), np.float32), "classes": probabilities}
    )
    (record,) = run(tmp_path, line(row, layout)).values()
    conf = row["objects_conf"] if "objects_id" in layout else probabilities[:, 1:].max(1)
    order = np.argsort(-conf, kind="stable")
    np.testing.assert_array_equal(record["soft_labels"], probabilities[order].astype(np.float16))
    np.testing.assert_array_equal(record["features"], row["features"][order].astype(np.float16))
    np.testing.assert_array_equal(record["conf"], conf[order].astype(np.float16))


@pytest.mark.parametrize("spoil", [lambda p: p[:, 1:], lambda p: p * 0, lambda p: p * 3])
def test_class_probabilities_are_checked(tmp_path, spoil):
    probabilities = spoil(np.full((5, 1601), 1 / 1601, np.float32)).astype(np.float32)
    with pytest.raises(InputError, match=r"soft labels|cannot be decoded"):
        run(tmp_path, line(picture(1) | {"cls_prob": probabilities}, [*BUTD, "cls_prob"]))


@pytest.mark.parametrize("width", [1, 1024, 2054])
def test_features_may_have_any_width(tmp_path, width):
    features = np.random.default_rng(0).random((5, width)).astype(np.float32)
    (record,) = run(tmp_path, line(picture(1, features=features))).values()
    assert record["features"].shape == (5, width)


def test_bytes_as_python_3_prints_them_are_read(tmp_path):
    text = line(WIDE, BUTD).split("\t")
    text[4], text[5] = f"b'{text[4]}'", f"b'{text[5].strip()}'\n"
    (record,) = run(tmp_path, "\t".join(text)).values()
    assert record["norm_bb"][0, 2] == np.float16(560 / 640)


def milvlg(**changed):
    info = np.array({"objects_conf": 1}, object)
    sides = {"num_bbox": np.array(5), "image_h": np.array(250), "image_w": np.array(640)}
    return {"x": WIDE["features"], "bbox": WIDE["boxes"], "info": info, **sides} | changed


def import_npz(folder, *flags, **images):
    (folder / "raw").mkdir()
    for name, image in images.items():
        np.savez(folder / "raw" / f"{name}.jpg.npz", **image)
    import_features.main(["--npz", str(folder / "raw"), "--output", str(folder / "npz"), *flags])
    return {path.name: dict(np.load(path)) for path in sorted((folder / "npz").glob("*.npz"))}


def test_the_npz_of_milvlg_is_read_without_its_pickle(tmp_path):
    records = import_npz(tmp_path, COCO_val2014_000000000009=milvlg())
    record = records["coco_val2014_000000000009.npz"]
    np.testing.assert_array_equal(record["features"], WIDE["features"].astype(np.float16))
    np.testing.assert_allclose(record["norm_bb"][:, :4], WIDE["boxes"] / [640, 250, 640, 250], atol=1e-3)
    assert (record["conf"] == 0.5).all() and np.allclose(record["soft_labels"].sum(1), 1, atol=1e-2)


def test_the_npz_of_openvqa_names_the_sides_otherwise(tmp_path):
    image = {"x": WIDE["features"], "bbox": WIDE["boxes"], "width": 640, "height": 250}
    assert import_npz(tmp_path, a=image)["a.npz"]["norm_bb"][0, 2] == np.float16(560 / 640)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"bbox": WIDE["boxes"]}, r"not an .npz of MILVLG[\s\S]*bbox\n[\s\S]*x, bbox, image_w, image_h"),
        ({"features": np.ones((2, 2)), "norm_bb": np.ones((2, 6))}, "give it to convert_imgdir.py"),
        (milvlg(num_bbox=np.array(4)), "cannot be decoded"),
        (milvlg(bbox=np.array([None] * 5)), "cannot be read"),
        (milvlg(image_w=np.array([640, 1])), "cannot be decoded"),
    ],
)
def test_other_npz_files_are_named(tmp_path, image, expected):
    with pytest.raises(InputError, match=expected) as raised:
        import_npz(tmp_path, a=image)
    assert "a.jpg.npz" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"PK\x03\x04", "give .npz files to --npz"),
        (b"\x80\x02}q", "a pickle"),
        (b"\x93NUMPY", "an .npy file of MMF"),
        (b'key\t{"num_boxes": 3}\n', "2 columns, as in Oscar's"),
        (b"key\t36\tAAAA\n", "3 columns, as in VinVL's"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, expected):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.tsv[\s\S]*{expected}"):
        import_features.main(["--tsv", str(tmp_path / "a.tsv"), "--output", str(tmp_path / "npz")])


def test_bad_rows_are_left_out_and_listed(tmp_path, capsys):
    cut = line(picture(2))
    text = line(picture(0)) + line(picture(0)) + "a\tb\n\n" + line(picture(1)) + cut[: len(cut) // 2]
    records = run(tmp_path, text, "--skip_bad")
    assert list(records) == ["coco_train2014_000000000001.npz", "coco_train2014_000000000002.npz"]
    rows = [json.loads(row)["item"] for row in (tmp_path / "npz.left_out.jsonl").read_text().splitlines()]
    assert [row.split(": ")[1].split(",")[0] for row in rows] == ["line 2", "line 3", "line 6"]
    assert "3 bad items left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "npz" / "provenance.json").read_text())["pictures"] == 2


def test_the_whole_rows_of_a_cut_gzip_are_kept_on_request(tmp_path):
    content = gzip.compress("".join(line(picture(seed)) for seed in range(4)).encode())
    (tmp_path / "a.tsv.gz").write_bytes(content[: len(content) * 5 // 8])
    command = ["--tsv", str(tmp_path / "a.tsv.gz"), "--output", str(tmp_path / "npz")]
    with pytest.raises(InputError, match=r"the file is damaged[\s\S]*after line 2[\s\S]*--skip_bad"):
        import_features.main(command)
    import_features.main([*command, "--skip_bad"])
    assert len(list((tmp_path / "npz").glob("*.npz"))) == 2
