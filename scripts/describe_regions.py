"""Region features of pictures, without weights: one `.npz` a picture, for `scripts/convert_imgdir.py`.

    python -m scripts.describe_regions --images PICTURES --boxes instances.json --grid --output npz/mine
    python -m scripts.describe_regions --images pictures.zip --output npz/mine

Boxes come from a COCO instances JSON (`--boxes`), from an imitation of a detector's output on it (`--imitate_detector`:
jitter, duplicates, false positives, now and then a wrong class), or from a grid of 36 boxes; with `--grid` the grid
serves pictures for which the JSON has none, and without a JSON it serves all. A box with a class gets soft labels from
it, one without from a fixed codebook of 1,600 looks; `provenance.json` beside the files says which. With `--boxes`,
`iid_to_ann_ids.json` beside them says which annotation each box of a picture is: `prepro.py re` needs it.
"""

import io
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.rng import generator
from prepare.boxes import imitate, read_instances
from prepare.output import NpzNames, new_folder
from prepare.regions import codebook, crops, describe, grid_boxes, project, pseudo_classes, soft_labels
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import read_json, write_json
from utils.options import option

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(kw_only=True)
class DescribeConfig:
    """Options of region description."""

    images: list[str] = option(help="folders or zip files of pictures")
    output: str = option(help="new folder for the .npz files")
    boxes: str | None = option(None, help="COCO instances JSON: boxes and classes are taken as they are")
    imitate_detector: str | None = option(None, help="COCO instances JSON: a detector's output on it is imitated")
    grid: bool = option(False, help="a grid of 36 boxes for pictures that have none in the JSON")
    img_name: str | None = option(
        None,
        help="name of a picture's file: a format string over {stem}, {file_name}, {image_id}, {split}. Default: "
        "{stem}.npz, for COCO's pictures coco_{split}_{image_id:012}.npz",
    )
    split: str | None = option(None, help="what {split} stands for, where COCO's file names do not tell")
    seed: int = option(0, help="of the imitated detector", at_least=0)
    nproc: int = option(2, help="processes", at_least=1)


@dataclass
class Picture:
    """Where a picture is, what is known of it, what its file will be called."""

    source: Path
    member: str | None  # inside a zip
    name: str
    boxes: np.ndarray | None  # (n, 4) x1, y1, x2, y2 in pixels
    classes: np.ndarray | None  # (n,) 1..
    image_id: int | None  # in the JSON of boxes

    @property
    def file_name(self) -> str:
        """Without folders."""
        return Path(self.member or self.source).name


def list_pictures(sources: list[str]) -> list[tuple[Path, str | None, str]]:
    """(file, member of a zip or None, file name) of every picture, sorted by file name."""
    found: list[tuple[Path, str | None, str]] = []
    for source in map(Path, sources):
        if source.is_dir():
            found += [(path, None, path.name) for path in source.rglob("*")]
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                found += [(source, name, Path(name).name) for name in archive.namelist()]
        else:
            raise InputError("neither a folder nor a zip of pictures", file=source, remedy="check --images")
    # Names with a dot in front are not pictures but what macOS keeps beside them.
    found = [entry for entry in found if entry[2].lower().endswith(PICTURES) and not entry[2].startswith(".")]
    if not found:
        raise InputError("no pictures", file=", ".join(sources), expected=f"files ending in {', '.join(PICTURES)}")
    return sorted(found, key=lambda entry: (entry[2], str(entry[0]), entry[1] or ""))


def plan(config: DescribeConfig) -> list[Picture]:
    """Every picture with its boxes and the name of its file; two pictures with one name are an error."""
    if config.boxes and config.imitate_detector:
        raise InputError("--boxes and --imitate_detector at once", remedy="give one of them")
    instances = config.boxes or config.imitate_detector
    ids, boxes = read_instances(instances)
    names, pictures = NpzNames(config.img_name, config.split), []
    for source, member, file_name in list_pictures(config.images):
        given = boxes.get(ids.get(file_name, -1))
        if given is None and instances and not config.grid:
            raise InputError(
                "no boxes for a picture",
                file=instances,
                key=file_name,
                remedy="add its boxes, or --grid to lay a grid over pictures without",
            )
        name = names.name(file_name, ids.get(file_name), source)
        its_boxes, classes = given or (None, None)
        pictures.append(Picture(source, member, name, its_boxes, classes, ids.get(file_name)))
    return pictures


@lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    """Open in the process that reads: reading the list of a large archive's members takes long."""
    return zipfile.ZipFile(path)


def load_image(picture: Picture) -> Image.Image:
    """The picture as RGB, whatever mode its file has."""
    try:
        if picture.member is None:
            return Image.open(picture.source).convert("RGB")
        return Image.open(io.BytesIO(_archive(picture.source).read(picture.member))).convert("RGB")
    except (OSError, SyntaxError, ValueError, RuntimeError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise InputError("a picture cannot be read", file=picture.source, key=picture.member, found=error) from None


def boxes_inside(picture: Picture, boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut at the picture's edges, (n, 4), and which of them have a pixel left, (n,) bool; at least one has."""
    cut = np.clip(boxes, 0, np.array([*size, *size], float))
    inside = (cut[:, 2:] - cut[:, :2] >= 1).all(1)
    if not inside.any():
        raise InputError(
            "no box of a picture lies in it",
            file=picture.source,
            key=picture.file_name,
            found=f"{boxes[0].round(1).tolist()} and {len(boxes) - 1} more",
            expected=f"x1, y1, x2, y2 within {size[0]} × {size[1]} pixels",
            remedy="are the boxes of another size of the picture?",
        )
    return cut, inside


def describe_picture(
    picture: Picture, n_classes: int, detector_seed: int | None
) -> tuple[dict[str, np.ndarray], list[int]]:
    """`features`, `norm_bb`, `conf` and `soft_labels` of one picture, most confident box first; which box each is."""
    image = load_image(picture)
    boxes, classes, size = picture.boxes, picture.classes, image.size
    if boxes is None or classes is None:
        boxes = grid_boxes(*size)
        conf = 0.5 - 0.004 * np.arange(len(boxes))
    elif detector_seed is not None:
        rng = generator(detector_seed, "detector", Path(picture.file_name).stem)
        boxes, classes, conf = imitate(boxes, classes, size, n_classes, rng)
    else:
        conf = np.full(len(boxes), 0.95)
    rows = np.arange(len(boxes))
    if classes is not None:
        boxes, inside = boxes_inside(picture, boxes, size)
        boxes, classes, conf, rows = boxes[inside], classes[inside], conf[inside], rows[inside]
    descriptors = describe(crops(image, boxes))
    labels = pseudo_classes(descriptors) if classes is None else soft_labels(classes, np.clip(conf, 0.3, 0.98))
    order = np.argsort(-conf, kind="stable")
    corners = boxes / np.array([*size, *size], float)
    arrays = {
        "features": project(descriptors)[order].astype(np.float16),
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)[order].astype(np.float16),
        "conf": conf[order].astype(np.float16),
        "soft_labels": labels[order].astype(np.float16),
    }
    return arrays, rows[order].tolist()


def _write(picture: Picture, output: Path, n_classes: int, detector_seed: int | None) -> InputError | list[int]:
    try:
        arrays, rows = describe_picture(picture, n_classes, detector_seed)
        np.savez(output / picture.name, **arrays)  # type: ignore[arg-type]
        return rows
    except InputError as error:  # raised in the parent: an error of many parts does not survive the way there
        return error


def write_all(
    pictures: list[Picture], work: Callable[[Picture], InputError | list[int]], nproc: int
) -> list[list[int]]:
    """`work` on every picture, and what it returns of each; the first error stops it."""
    codebook()  # here, so that processes forked from this one have it
    written = []
    with ProcessPoolExecutor(nproc) as pool:
        done = pool.map(work, pictures, chunksize=16)
        try:
            for rows in tqdm(done, total=len(pictures), unit="picture", disable=None):
                if isinstance(rows, InputError):
                    pool.shutdown(cancel_futures=True)
                    raise rows
                written.append(rows)
        except BrokenProcessPool:
            raise InputError("a process was killed, for want of memory?", remedy="a smaller --nproc") from None
    return written


def annotation_orders(instances: str, pictures: list[Picture], rows: list[list[int]]) -> dict[str, list[int]]:
    """Image id to the annotation ids of the boxes written of it, in their order; empty where annotations have no ids.

    `rows`: for each picture, which of its boxes in the JSON were written.
    """
    ids: dict[int, list[int]] = {}
    for annotation in read_json(instances)["annotations"]:
        if type(annotation.get("id")) is not int:
            return {}
        ids.setdefault(int(annotation["image_id"]), []).append(annotation["id"])
    boxed = [(picture.image_id, kept) for picture, kept in zip(pictures, rows) if picture.boxes is not None]
    return {str(image_id): [ids[image_id][k] for k in kept] for image_id, kept in boxed if image_id is not None}


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(DescribeConfig, argv)
    pictures = plan(config)
    n_classes = max((int(p.classes.max()) for p in pictures if p.classes is not None), default=0)
    seed = config.seed if config.imitate_detector else None
    gridded = sum(picture.boxes is None for picture in pictures)
    provenance: dict[str, Any] = {
        "descriptor": "fixed, without weights (prepare/regions.py)",
        "boxes": config.boxes or config.imitate_detector,
        "imitated_detector": config.imitate_detector is not None,
        "pictures": len(pictures),
        "pictures_on_a_grid": gridded,
        "pseudo_classes": gridded > 0,
    }
    with new_folder(config.output) as output:
        work = partial(_write, output=output, n_classes=n_classes, detector_seed=seed)
        rows = write_all(pictures, work, config.nproc)
        if config.boxes and (orders := annotation_orders(config.boxes, pictures, rows)):
            write_json(output / "iid_to_ann_ids.json", {"iid_to_ann_ids": orders})
        write_json(output / "provenance.json", provenance, indent=2)
    print(f"{len(pictures)} pictures ({gridded} on a grid) described in {config.output}")


if __name__ == "__main__":
    exit_on_input_error(main)
