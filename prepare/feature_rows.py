"""Rows of region features in other projects' files: tsv of bottom-up attention and its relatives, `.npz` of MILVLG.

A row is a dict of fields under the names of LXMERT's layout; arrays are numpy arrays or base64.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prepare.image_names import stem_of
from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.npz import open_npz, read_array
from utils.os_errors import open_input

# Columns in the order of files without a header line; the number of columns tells which layout it is.
_BUTD = ("img_id", "img_w", "img_h", "num_boxes", "boxes", "features")
_LXMERT = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf")
LAYOUTS = {
    6: _BUTD,
    7: (*_BUTD, "cls_prob"),  # ViLBERT
    10: (*_LXMERT, "num_boxes", "boxes", "features"),
    13: (*_LXMERT, "num_boxes", "boxes", "features", "cls_prob", "attrs", "classes"),  # volta
}
SYNONYMS = {
    "image_id": "img_id",
    "image_w": "img_w",
    "image_h": "img_h",
    "image_width": "img_w",
    "image_height": "img_h",
}
NAMES = {name for layout in LAYOUTS.values() for name in layout} | set(SYNONYMS)
READ = ("img_id", "img_w", "img_h", "num_boxes", "boxes", "features")  # columns that every file must have
MOST_BYTES = 1 << 31  # of a line
# Files of other kinds, by their first bytes, and what to do with them.
MAGIC = {
    b"\x89HDF": "an HDF5 file: write each image as an .npz (docs/DATA.md)",
    b"PK\x03\x04": "an .npz or torch file: give .npz files to --npz, write other images as .npz (docs/DATA.md)",
    b"\x93NUMPY": "an .npy file of MMF or 12-in-1: write each image as an .npz (docs/DATA.md)",
    b"\x80": "a pickle, which would have to run code: write each image as an .npz (docs/DATA.md)",
    b"\xff\xfe": "UTF-16 text: convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text: convert it to UTF-8",
}


@dataclass(kw_only=True)
class Row:
    """The features of one image, not yet decoded. `place`: the line or file, for messages; `checksum`: of its bytes."""

    file: Path
    is_tsv: bool
    place: str
    img_id: str
    fields: dict[str, Any]
    checksum: int


def read_tsv(path: Path) -> Iterator[Row]:
    """Read a tsv, plain or `.gz`. Its header line says what the columns are; without one, their number does.

    Blank lines are skipped. `InputError` for a line of another number of columns, or a header that lacks a column.
    """
    number, layout = 0, None
    try:
        with open_input(path) as file, gzip.open(file) if path.suffix == ".gz" else file as stream:
            for number, line in enumerate(_lines(stream, path), 1):
                if not line.strip():
                    continue
                columns = line.rstrip(b"\r\n").split(b"\t")
                if header := _header(columns):
                    layout = checked_header(header, path, number)  # never left out: it decides about all lines
                    continue
                with bad_entry(f"{path}: line {number}"):
                    yield _row(columns, layout, path, number, zlib.crc32(line))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        with bad_entry(f"{path}: all after line {number}"):
            raise InputError("the file is damaged", file=path, key=f"after line {number}", found=error) from None
    except OSError as error:
        raise InputError("the file cannot be read", file=path, key=f"after line {number}", found=error) from None


def _lines(stream: Any, path: Path) -> Iterator[bytes]:
    """The lines of a file, without a byte-order mark; `InputError` if it is of another kind."""
    first = True
    while line := stream.readline(MOST_BYTES):
        if first:
            line = line.removeprefix(b"\xef\xbb\xbf")
            kind = next((kind for magic, kind in MAGIC.items() if line.startswith(magic)), None)
            if kind:
                raise InputError("the file is not a tsv", file=path, found=kind)
        first = False
        yield line


def _header(columns: Sequence[bytes]) -> list[str] | None:
    """The names of the columns, if the line is a header: one of its fields is a known name."""
    texts = [column.decode(errors="replace").strip().strip('"').lower() for column in columns if len(column) < 100]
    names = [text.removeprefix("#").strip() for text in texts]  # as some write before the first name
    return names if len(names) == len(columns) and NAMES.intersection(names) else None


def checked_header(names: list[str], path: Path, number: int) -> tuple[str, ...]:
    """The header's columns under our names; `InputError` unless it has all columns that are read, once."""
    layout = tuple(SYNONYMS.get(name, name) for name in names)
    wrong = [name for name in READ if layout.count(name) != 1]
    if wrong:
        raise InputError(
            "the header of the tsv does not have every column once",
            file=path,
            key=f"line {number}: {', '.join(wrong)}",
            found=", ".join(names),
            expected=" or ".join(", ".join(layout) for layout in LAYOUTS.values()),
            remedy="rename the columns",
        )
    return layout


def _row(columns: list[bytes], layout: tuple[str, ...] | None, path: Path, number: int, checksum: int) -> Row:
    if layout and len(layout) != len(columns):
        raise InputError(
            "the line has another number of columns than the header",
            file=path,
            key=f"line {number}",
            found=f"{len(columns)} columns",
            expected=f"{len(layout)}: {', '.join(layout)}",
            remedy="correct the header line, or write the line again",
        )
    layout = layout or LAYOUTS.get(len(columns))
    if not layout:
        raise InputError(
            "the line is not one of a known tsv of features",
            file=path,
            key=f"line {number}",
            found=f"{len(columns)} columns{_known_kind(columns)}",
            expected=" or ".join(f"{n} ({', '.join(names)})" for n, names in LAYOUTS.items()),
            remedy="if the columns have another order, write their names into a first line",
        )
    fields = dict(zip(layout, columns))
    img_id = fields["img_id"].decode(errors="replace").strip()
    return Row(
        file=path, is_tsv=True, place=f"line {number}, {img_id}", img_id=img_id, fields=fields, checksum=checksum
    )


def _known_kind(columns: list[bytes]) -> str:
    """For messages: the layout that a line of two or three columns may be."""
    if len(columns) == 2 and columns[1].lstrip().startswith((b"{", b"[")):
        return ", as in Oscar's and scene_graph_benchmark's tsv (JSON)"
    return ", as in VinVL's tsv" if len(columns) == 3 and columns[1].isdigit() else ""


def read_npz(path: Path) -> Row:
    """Read an `.npz` of MILVLG's bottom-up-attention.pytorch or of OpenVQA: `x`, `bbox`, the image's width and height.

    Its member `info` is a pickle with classes and confidences; it is never read. `InputError` for another layout.
    """
    with open_npz(path) as file:
        names = set(file.files)
        wanted = names & {"x", "bbox", "num_bbox", *_NPZ_SIDES}
        arrays = {name: read_array(file, name, path) for name in sorted(wanted)}
    width, height = (next((arrays[name] for name in _NPZ_SIDES[k::2] if name in arrays), None) for k in range(2))
    if "x" not in arrays or "bbox" not in arrays or width is None or height is None:
        ours = {"features", "norm_bb"} <= names
        raise InputError(
            "the file is not an .npz of MILVLG or OpenVQA",
            file=path,
            key=", ".join(sorted(names)),
            expected="x, bbox, image_w, image_h",
            remedy="it has our layout already: give it to convert_imgdir.py" if ours else "see docs/DATA.md",
        )
    n = arrays.get("num_bbox", np.array(arrays["bbox"].shape[:1] or 0))
    fields = {"img_w": width, "img_h": height, "num_boxes": n, "boxes": arrays["bbox"], "features": arrays["x"]}
    img_id = stem_of(path.name.removesuffix(".npz"))
    checksum = zlib.crc32(repr((path.stat().st_size, path.stat().st_mtime_ns)).encode())
    return Row(file=path, is_tsv=False, place=img_id, img_id=img_id, fields=fields, checksum=checksum)


_NPZ_SIDES = ("image_w", "image_h", "width", "height")  # MILVLG's, then OpenVQA's
