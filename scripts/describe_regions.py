"""Region features of pictures, without weights: one `.npz` a picture, for `scripts/convert_imgdir.py`.

    python -m scripts.describe_regions --images PICTURES --boxes instances.json --grid --output npz/mine
    python -m scripts.describe_regions --images pictures.zip --output npz/mine

Boxes come from a COCO instances JSON (`--boxes`), from an imitation of a detector's output on it (`--imitate_detector`:
jitter, duplicates, false positives, now and then a wrong class), or from a grid of 36 boxes; with `--grid` the grid
serves pictures for which the JSON has none, and without a JSON it serves all.
"""

import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from data.rng import generator
from scripts.regions import CLASSES, crops, describe, grid_boxes, project, pseudo_classes, soft_labels
from utils.config import parse
from utils.errors import InputError, run
from utils.files import atomic_write, read_json, write_json
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
    img_name: str = option("{stem}.npz", help="name of a picture's file: {stem}, {image_id}, {split}")
    split: str = option("", help="what {split} stands for")
    seed: int = option(0, help="of the imitated detector", at_least=0)
    nproc: int = option(2, help="processes", at_least=1)


@dataclass
class Picture:
    """Where a picture is, what is known of it, what its file will be called."""

    source: Path
    member: str | None  # inside a zip
    stem: str
    image_id: int | None
    boxes: np.ndarray | None  # (n, 4) x1, y1, x2, y2 in pixels
    classes: np.ndarray | None  # (n,) 1..
    name: str = ""


def list_pictures(sources: list[str]) -> list[tuple[Path, str | None, str]]:
    """(file, member of a zip or None, file name) of every picture, sorted by name."""
    found: list[tuple[Path, str | None, str]] = []
    for source in map(Path, sources):
        if source.is_dir():
            found += [(path, None, path.name) for path in source.rglob("*") if path.suffix.lower() in PICTURES]
        elif zipfile.is_zipfile(source):
            names = zipfile.ZipFile(source).namelist()
            found += [(source, name, Path(name).name) for name in names if Path(name).suffix.lower() in PICTURES]
        else:
            raise InputError("neither a folder nor a zip of pictures", file=source, remedy="check --images")
    if not found:
        raise InputError("no pictures", file=", ".join(sources), expected=f"files ending in {', '.join(PICTURES)}")
    return sorted(found, key=lambda item: item[2])


def read_instances(path: str | None) -> tuple[dict[str, int], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """A COCO instances JSON → image ids by file name; boxes (n, 4) and classes (n,) by image id."""
    if path is None:
        return {}, {}
    content = read_json(path)
    try:
        ids = {Path(image["file_name"]).name: int(image["id"]) for image in content["images"]}
        number = {c: k + 1 for k, c in enumerate(sorted({a["category_id"] for a in content["annotations"]}))}
        if "categories" in content:
            number = {c: k + 1 for k, c in enumerate(sorted(c["id"] for c in content["categories"]))}
        grouped = defaultdict(list)
        for annotation in content["annotations"]:
            x, y, w, h = map(float, annotation["bbox"])
            grouped[int(annotation["image_id"])].append(([x, y, x + w, y + h], number[annotation["category_id"]]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "not a COCO instances file", file=path, found=repr(error), expected="images, annotations"
        ) from None
    if len(number) >= CLASSES:
        raise InputError(
            "more classes than soft labels have room for", file=path, found=len(number), expected=CLASSES - 1
        )
    return ids, {i: (np.array([b for b, _ in rows]), np.array([c for _, c in rows])) for i, rows in grouped.items()}


def plan(config: DescribeConfig) -> list[Picture]:
    """Every picture with its boxes and the name of its file; two pictures with one name are an error."""
    ids, boxes = read_instances(config.boxes or config.imitate_detector)
    pictures, taken = [], {}
    for source, member, file_name in list_pictures(config.images):
        stem = Path(file_name).stem
        digits = re.search(r"(\d+)$", stem)
        image_id = ids.get(file_name, int(digits[1]) if digits and not ids else None)
        given = boxes.get(image_id) if image_id is not None else None
        picture = Picture(source, member, stem, image_id, *(given or (None, None)))
        if given is None and (config.boxes or config.imitate_detector) and not config.grid:
            raise InputError(
                "no boxes for a picture",
                file=config.boxes or config.imitate_detector,
                key=file_name,
                remedy="add its boxes, or --grid to lay a grid over pictures without",
            )
        try:
            picture.name = config.img_name.format(stem=stem, image_id=image_id, split=config.split)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                "cannot name a picture's file", key=file_name, found=f"{config.img_name}: {error}"
            ) from None
        if taken.setdefault(picture.name, file_name) != file_name or not picture.name.endswith(".npz"):
            raise InputError("--img_name gives two pictures one name, or no .npz", key=file_name, found=picture.name)
        pictures.append(picture)
    return pictures


def imitate(
    boxes: np.ndarray, classes: np.ndarray, size: tuple[int, int], n_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A detector's output on true boxes: boxes (n, 4), classes (n,), confidences (n,)."""
    found = [(box, kind, rng.uniform(0.55, 0.98)) for box, kind in zip(boxes, classes) if rng.random() > 0.01]
    found += [(box, kind, rng.uniform(0.2, 0.5)) for box, kind, _ in list(found) if rng.random() < 0.1]
    found = [
        (box, int(rng.integers(1, n_classes + 1)) if rng.random() < 0.06 else kind, conf) for box, kind, conf in found
    ]
    jittered = [(box + rng.normal(0, 0.03, 4) * np.tile(box[2:] - box[:2], 2), kind, conf) for box, kind, conf in found]
    for _ in range(int(rng.poisson(0.6)) or (0 if jittered else 1)):
        side = rng.uniform(0.1, 0.4) * min(size)
        corner = rng.uniform(0, 1, 2) * (np.array(size) - side)
        box = np.concatenate([corner, corner + side])
        jittered.append((box, int(rng.integers(1, n_classes + 1)), rng.uniform(0.1, 0.35)))
    return (
        np.stack([b for b, _, _ in jittered]),
        np.array([k for _, k, _ in jittered]),
        np.array([c for *_, c in jittered]),
    )


def load_image(picture: Picture) -> Image.Image:
    """The picture as RGB, whatever mode its file has."""
    try:
        if picture.member is None:
            return Image.open(picture.source).convert("RGB")
        with zipfile.ZipFile(picture.source) as archive:
            return Image.open(io.BytesIO(archive.read(picture.member))).convert("RGB")
    except (OSError, UnidentifiedImageError, zipfile.BadZipFile) as error:
        raise InputError("a picture cannot be read", file=picture.source, key=picture.member, found=error) from None


def describe_picture(picture: Picture, n_classes: int, detector_seed: int | None) -> dict[str, np.ndarray]:
    """`features`, `norm_bb`, `conf` and `soft_labels` of one picture, most confident box first."""
    image = load_image(picture)
    boxes, classes, size = picture.boxes, picture.classes, (image.width, image.height)
    if boxes is None or classes is None:
        boxes = grid_boxes(*size)
        conf = 0.5 - 0.004 * np.arange(len(boxes))
    elif detector_seed is not None:
        rng = generator(detector_seed, "detector", picture.stem)
        boxes, classes, conf = imitate(boxes, classes, size, n_classes, rng)
    else:
        conf = np.full(len(boxes), 0.95)
    limit = np.array([*size, *size], float)
    boxes = np.clip(boxes, 0, limit)
    descriptors = describe(crops(image, boxes))
    order = np.argsort(-conf, kind="stable")
    labels = pseudo_classes(descriptors) if classes is None else soft_labels(classes, np.clip(conf, 0.3, 0.98))
    corners = boxes / limit
    return {
        "features": project(descriptors)[order].astype(np.float16),
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)[order].astype(np.float16),
        "conf": conf[order].astype(np.float16),
        "soft_labels": labels[order].astype(np.float16),
    }


def _write(picture: Picture, output: Path, n_classes: int, detector_seed: int | None) -> InputError | None:
    try:
        buffer = io.BytesIO()
        np.savez(buffer, **describe_picture(picture, n_classes, detector_seed))  # type: ignore[arg-type]
        atomic_write(output / picture.name, buffer.getvalue())
    except InputError as error:  # raised in the parent: an error of many parts does not survive the way there
        return error
    return None


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(DescribeConfig, argv)
    output = Path(config.output)
    if output.exists() and any(output.iterdir()):
        raise InputError("the output folder is not empty", file=output, remedy="name a new folder, or delete this one")
    pictures = plan(config)
    n_classes = max((int(p.classes.max()) for p in pictures if p.classes is not None), default=0)
    seed = config.seed if config.imitate_detector else None
    work: Callable[[Picture], Any] = partial(_write, output=output, n_classes=n_classes, detector_seed=seed)
    output.mkdir(parents=True, exist_ok=True)
    with Pool(config.nproc) as pool:
        for error in tqdm(pool.imap(work, pictures, chunksize=8), total=len(pictures), unit="picture", disable=None):
            if error is not None:
                raise error
    gridded = sum(picture.boxes is None for picture in pictures)
    provenance = {
        "descriptor": "fixed, without weights (scripts/regions.py)",
        "boxes": config.boxes or config.imitate_detector,
        "imitated_detector": config.imitate_detector is not None,
        "pictures": len(pictures),
        "pictures_on_a_grid": gridded,
        "pseudo_classes": gridded > 0,
    }
    write_json(output / "provenance.json", provenance, indent=2)
    print(f"{len(pictures)} pictures ({gridded} on a grid) described in {output}")


if __name__ == "__main__":
    run(main)
