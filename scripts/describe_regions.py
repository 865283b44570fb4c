"""Make region features of images without a detector: one `.npz` per image, for `scripts/convert_imgdir.py`.

    python -m scripts.describe_regions --images PICTURES --boxes instances.json --grid --output npz/mine
    python -m scripts.describe_regions --images pictures.zip --output npz/mine

Boxes come from a COCO instances JSON (`--boxes`), from an imitated detector's output on it (`--imitate_detector`:
jitter, duplicates, false positives, some wrong classes), or from a grid of 36 boxes. Without a JSON, all images get the
grid; with `--grid`, those without boxes in the JSON. Soft labels come from the class of a box; boxes without a class
get pseudo-classes from a fixed codebook of 1,600. `provenance.json` beside the files says which. With `--boxes`,
`iid_to_ann_ids.json` beside them says which annotation each box is; `prepro.py re` needs it.
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
import toolz
from PIL import Image
from tqdm import tqdm

from data.rng import generator
from prepare.boxes import imitate, read_instance_boxes
from prepare.output import NpzNames
from prepare.regions import codebook, crops, describe, grid_boxes, project, pseudo_classes, soft_labels
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import new_folder, read_json, write_json
from utils.options import MOST_SEED, option

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(kw_only=True)
class DescribeConfig:
    """Options of `scripts.describe_regions`, which makes region features without a detector."""

    images: list[str] = option(help="folders or zip files of images")
    output: str = option(help="new folder for the .npz files")
    boxes: str | None = option(None, help="COCO instances JSON: use its boxes and classes as they are")
    imitate_detector: str | None = option(None, help="COCO instances JSON: imitate a detector's output on its boxes")
    grid: bool = option(False, help="give images without boxes in the JSON a grid of 36 boxes")
    img_name: str | None = option(
        None,
        help="format of the file names, from {stem}, {file_name}, {image_id}, {split}. Default: "
        "{stem}.npz, for COCO images coco_{split}_{image_id:012}.npz",
    )
    split: str | None = option(None, help="value of {split}, if COCO's file names do not contain it")
    seed: int = option(0, help="seed of the imitated detector", at_least=0, at_most=MOST_SEED)
    nproc: int = option(2, help="number of parallel processes", at_least=1, at_most=10_000)


@dataclass(kw_only=True)
class Picture:
    """An image to describe: its file, its boxes and classes if a JSON has them, the name of its `.npz` file."""

    source: Path
    member: str | None  # file inside the zip `source`
    npz_name: str
    boxes: np.ndarray | None  # (n, 4) x1, y1, x2, y2 in pixels
    classes: np.ndarray | None  # (n,) from 1
    image_id: int | None  # in the JSON of boxes

    @property
    def file_name(self) -> str:
        """The file name without folders."""
        return Path(self.member or self.source).name


def list_pictures(sources: list[str]) -> list[tuple[Path, str | None, str]]:
    """(file, member of a zip or None, file name) of every image, sorted by file name."""
    pictures: list[tuple[Path, str | None, str]] = []
    for source in map(Path, sources):
        if source.is_dir():
            pictures += [(path, None, path.name) for path in source.rglob("*")]
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                pictures += [(source, name, Path(name).name) for name in archive.namelist()]
        else:
            raise InputError("not a folder or zip file of images", file=source, remedy="check --images")
    # Files whose name starts with a dot are not images; macOS puts them into zip files.
    pictures = [entry for entry in pictures if entry[2].lower().endswith(PICTURES) and not entry[2].startswith(".")]
    if not pictures:
        raise InputError("no images found", file=", ".join(sources), expected=f"files ending in {', '.join(PICTURES)}")
    return sorted(pictures, key=lambda entry: (entry[2], str(entry[0]), entry[1] or ""))


def plan_pictures(config: DescribeConfig) -> list[Picture]:
    """List all images with their boxes and the names of their `.npz` files; two equal names are an `InputError`."""
    if config.boxes and config.imitate_detector:
        raise InputError("--boxes and --imitate_detector exclude each other", remedy="give one of them")
    instances = config.boxes or config.imitate_detector
    image_ids, boxes_by_image = read_instance_boxes(instances)
    names, pictures = NpzNames(config.img_name, config.split), []
    for source, member, file_name in list_pictures(config.images):
        image_id = image_ids.get(file_name)
        boxes, classes = boxes_by_image.get(image_ids.get(file_name, -1), (None, None))
        if boxes is None and instances and not config.grid:
            raise InputError(
                "an image has no boxes",
                file=instances,
                key=file_name,
                remedy="add its boxes, or give --grid to use a grid of boxes for such images",
            )
        pictures.append(
            Picture(
                source=source,
                member=member,
                npz_name=names.name(file_name, image_id, source),
                boxes=boxes,
                classes=classes,
                image_id=image_id,
            )
        )
    return pictures


@lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    """The opened zip file, kept open in each process because listing the members of a large archive is slow."""
    return zipfile.ZipFile(path)


def load_image(picture: Picture) -> Image.Image:
    """Read an image file and convert it to RGB. `InputError` if it cannot be read."""
    try:
        if picture.member is None:
            return Image.open(picture.source).convert("RGB")
        return Image.open(io.BytesIO(_archive(picture.source).read(picture.member))).convert("RGB")
    except (OSError, SyntaxError, ValueError, RuntimeError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise InputError("the image cannot be read", file=picture.source, key=picture.member, found=error) from None


def cut_boxes(picture: Picture, boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes at the edges of the image: boxes (n, 4), and whether a pixel is left (n,) bool, true at least once."""
    cut = np.clip(boxes, 0, np.array([*size, *size], float))
    visible = (cut[:, 2:] - cut[:, :2] >= 1).all(1)
    if not visible.any():
        raise InputError(
            "all boxes lie outside their image",
            file=picture.source,
            key=picture.file_name,
            found=f"{boxes[0].round(1).tolist()} and {len(boxes) - 1} more",
            expected=f"x1, y1, x2, y2 within {size[0]} × {size[1]} pixels",
            remedy="check that boxes and image have the same scale",
        )
    return cut, visible


def describe_picture(
    picture: Picture, n_classes: int, detector_seed: int | None
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Describe one image: `features`, `norm_bb`, `conf`, `soft_labels`, all float16; the index of each region's box.

    The most confident region comes first. `detector_seed`: the seed of the imitated detector; None: no imitation.
    """
    image = load_image(picture)
    boxes, classes, size = picture.boxes, picture.classes, image.size
    if boxes is None or classes is None:
        boxes = grid_boxes(image.width, image.height)
        conf = 0.5 - 0.004 * np.arange(len(boxes))
    elif detector_seed is not None:
        rng = generator(detector_seed, "detector", Path(picture.file_name).stem)
        boxes, classes, conf = imitate(boxes, classes, size, n_classes, rng)
    else:
        conf = np.full(len(boxes), 0.95)
    box_indices = np.arange(len(boxes))
    if classes is not None:
        boxes, visible = cut_boxes(picture, boxes, size)
        boxes, classes, conf, box_indices = boxes[visible], classes[visible], conf[visible], box_indices[visible]
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
    return arrays, box_indices[order].tolist()


def write_picture(picture: Picture, output: Path, n_classes: int, detector_seed: int | None) -> InputError | list[int]:
    """Write the `.npz` file of one image; returns the index of each region's box, or the error."""
    try:
        arrays, box_indices = describe_picture(picture, n_classes, detector_seed)
        np.savez(output / picture.npz_name, **arrays)  # type: ignore[arg-type]
        return box_indices
    except InputError as error:  # returned, so that the parent process can stop the other processes and raise it
        return error


def write_all(
    pictures: list[Picture], work: Callable[[Picture], InputError | list[int]], nproc: int
) -> list[list[int]]:
    """Call `work` on every image, in `nproc` processes; returns the results in order. The first error stops all."""
    codebook()  # compute the cached codebook before the fork, so that every process has it
    box_indices = []
    with ProcessPoolExecutor(nproc) as pool:
        results = pool.map(work, pictures, chunksize=16)
        try:
            for result in tqdm(results, total=len(pictures), unit="image", disable=None):
                if isinstance(result, InputError):
                    pool.shutdown(cancel_futures=True)
                    raise result
                box_indices.append(result)
        except BrokenProcessPool:
            raise InputError("a process was killed, perhaps out of memory", remedy="lower --nproc") from None
    return box_indices


def annotation_orders(instances: str, pictures: list[Picture], box_indices: list[list[int]]) -> dict[str, list[int]]:
    """Image id → the annotation ids of its regions, in the order of the regions; empty if annotations have no ids.

    `box_indices`: for each image, the index of each region's box among the image's annotations.
    """
    annotations = read_json(instances)["annotations"]
    if any(type(annotation.get("id")) is not int for annotation in annotations):
        return {}
    by_image = toolz.groupby(lambda annotation: int(annotation["image_id"]), annotations)
    orders = {}
    for picture, indices in zip(pictures, box_indices):
        if picture.boxes is not None and picture.image_id is not None:
            orders[str(picture.image_id)] = [by_image[picture.image_id][k]["id"] for k in indices]
    return orders


def main(argv: list[str] | None = None) -> None:
    """Describe all images of the command line."""
    config, _ = parse(DescribeConfig, argv)
    pictures = plan_pictures(config)
    n_classes = max((int(p.classes.max()) for p in pictures if p.classes is not None), default=0)
    seed = config.seed if config.imitate_detector else None
    n_grid = sum(picture.boxes is None for picture in pictures)
    provenance: dict[str, Any] = {
        "descriptor": "fixed, without weights (prepare/regions.py)",
        "boxes": config.boxes or config.imitate_detector,
        "imitated_detector": config.imitate_detector is not None,
        "pictures": len(pictures),
        "pictures_on_a_grid": n_grid,
        "pseudo_classes": n_grid > 0,
    }
    with new_folder(config.output) as output:
        work = partial(write_picture, output=output, n_classes=n_classes, detector_seed=seed)
        box_indices = write_all(pictures, work, config.nproc)
        if config.boxes and (orders := annotation_orders(config.boxes, pictures, box_indices)):
            write_json(output / "iid_to_ann_ids.json", {"iid_to_ann_ids": orders})
        write_json(output / "provenance.json", provenance, indent=2)
    print(f"{len(pictures)} images ({n_grid} with a grid of boxes) described in {config.output}")


if __name__ == "__main__":
    exit_on_input_error(main)
