"""Import features of bottom-up attention and its relatives: one `.npz` per image, for `convert_imgdir.py`.

    python -m scripts.import_features --tsv train2014_obj36.tsv --output npz/coco
    python -m scripts.import_features --npz FOLDER --output npz/mine

The tsv layouts of bottom-up attention, LXMERT, ViLBERT and volta are read, and MILVLG's `.npz`
(`prepare/feature_rows.py`). Boxes are sorted by confidence. Soft labels are the class probabilities where the file has
them. Elsewhere they are made from the best class: it gets its confidence, and the rest is spread evenly over all
classes. Without classes all labels are equal, so MRC and MRC-kl have nothing to learn.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from data.region_checks import Problem
from prepare.feature_rows import Row, read_npz, read_tsv
from prepare.feature_values import Regions, bad_row, read_regions
from prepare.image_names import stem_of
from prepare.left_out import HELP, LeftOut, bad_entry, nothing_left
from prepare.output import NpzNames
from prepare.regions import soft_labels
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.formats import IMG_LABEL_DIM
from utils.job_folder import Job, job_folder
from utils.options import option

NOTES = {  # what is counted, and how the screen says it
    "reordered": "images had boxes that were not in order: now the most confident comes first",
    "transposed": "images had features as (D, n): they are transposed",
    "empty": "boxes have no area",
}


@dataclass(kw_only=True)
class ImportConfig:
    """Options of `scripts.import_features`, which imports features of bottom-up attention, LXMERT and relatives."""

    output: str = option(help="new folder for the .npz files")
    tsv: list[str] = option([], help="tsv files of features, plain or .gz")
    npz: list[str] = option([], help=".npz files of MILVLG or OpenVQA, or folders of them")
    img_name: str | None = option(
        None,
        help="format of the file names, from {img_id}, {image_id} (the number at its end), {split}. "
        "Default: {img_id}.npz, for COCO images coco_{split}_{image_id:012}.npz",
    )
    split: str | None = option(None, help="value of {split}, if COCO's file names do not contain it")
    skip_bad: bool = option(False, help=HELP)


def read_rows(config: ImportConfig) -> Iterator[Row]:
    """All rows of the files that the command line names."""
    for path in map(Path, config.tsv):
        yield from read_tsv(path)
    for path in map(Path, config.npz):
        found = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        files = [file for file in found if not file.name.startswith(".")]  # macOS puts such beside each file
        if len(files) < len(found):
            print(f"{len(found) - len(files):,} hidden files of {path} are not read")
        if not files:
            raise InputError("the folder holds no .npz files", file=path, remedy="check --npz")
        for file in files:
            with bad_entry(file):
                yield read_npz(file)


def convert(row: Row) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Convert one row: `features`, `norm_bb`, `conf`, `soft_labels`, most confident box first; and notes on it.

    `InputError` if a value is wrong.
    """
    regions = read_regions(row)
    order = np.argsort(-regions.conf, kind="stable")
    corners = np.clip(regions.boxes / np.array([regions.width, regions.height] * 2), 0, 1)
    arrays = {
        "features": regions.features[order].astype(np.float16),
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)[order].astype(np.float16),
        "conf": regions.conf[order].astype(np.float16),
        "soft_labels": _labels(regions)[order].astype(np.float16),
    }
    notes = {
        "width": regions.features.shape[1],
        "reordered": bool((order != np.arange(len(order))).any()),
        "transposed": regions.is_transposed,
        "empty": int((corners[:, 2:] <= corners[:, :2]).any(1).sum()),
    }
    return arrays, notes


def _labels(regions: Regions) -> np.ndarray:
    """Soft labels: those of the file, or made from the best class of each box, or equal ones."""
    if regions.labels is not None:
        return regions.labels
    if regions.classes is not None:
        return soft_labels(regions.classes, regions.conf.clip(0, 1))
    return np.full((len(regions.conf), IMG_LABEL_DIM), 1 / IMG_LABEL_DIM)


def import_row(row: Row, name: str, job: Job, widths: dict[int, str]) -> None:
    """Write one image as the file `name`, unless an earlier run has done so. `widths`: feature widths, and where."""
    note = job.done.get(name)
    if note is None or note["checksum"] != row.checksum:
        arrays, notes = convert(row)
        note = {"checksum": row.checksum, **notes}
        if widths and note["width"] not in widths:
            raise bad_row(row, Problem("the features have another width than others", str(note["width"]), str(widths)))
        np.savez(job.folder / name, **arrays)  # type: ignore[arg-type]
        job.finish(name, note)
    widths.setdefault(note["width"], f"{row.file}, {row.place}")


def import_rows(config: ImportConfig, job: Job) -> list[str]:
    """Write one `.npz` file for each row; returns their names."""
    pattern = (config.img_name or "").replace("{img_id", "{stem") or None
    names = NpzNames(pattern, config.split, numbers_are_coco=True)
    files: list[str] = []
    widths: dict[int, str] = {}
    for row in tqdm(read_rows(config), unit="image", disable=None):
        place = f"{row.file}: {row.place}"
        with bad_entry(place):
            if not (stem := stem_of(row.img_id)):
                raise bad_row(row, Problem("the image has no id", repr(row.img_id), "an id in the first column"))
            # ".jpg" is added because NpzNames removes a suffix, and an id may contain a dot
            name = names.name(f"{stem}.jpg", None, place)
            import_row(row, name, job, widths)
            files.append(name)
    if not files:
        raise nothing_left("the files hold no images", file=", ".join(config.tsv + config.npz))
    names.report_split()
    job.remove_others(set(files))
    return files


def main(argv: list[str] | None = None) -> None:
    """Import the files of the command line."""
    config, _ = parse(ImportConfig, argv)
    if not config.tsv and not config.npz:
        raise InputError("nothing to import", key="--tsv, --npz", remedy="name files of features")
    with LeftOut(config.output, config.skip_bad).collecting(), job_folder(config.output, {"version": 2}) as job:
        files = import_rows(config, job)
        counts = {note: sum(job.done[name][note] for name in files) for note in NOTES}
        sources, labels = config.tsv + config.npz, "class probabilities of the file, or made from the best class"
        provenance = {"features": sources, "pictures": len(files), "soft_labels": labels}
        write_json(job.folder / "provenance.json", provenance, indent=2)
    print(f"{len(files)} images written to {config.output}")
    for note, text in NOTES.items():
        if counts[note]:
            print(f"  {counts[note]:,} {text}")


if __name__ == "__main__":
    exit_on_input_error(main)
