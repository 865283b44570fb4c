"""Make region features of images without a detector: one `.npz` per image, for `scripts/convert_imgdir.py`.

    python -m scripts.describe_regions --images PICTURES --boxes instances.json --grid --output npz/mine
    python -m scripts.describe_regions --images pictures.zip --output npz/mine

Boxes come from a COCO instances JSON (`--boxes`), from an imitated detector's output on it (`--imitate_detector`:
jitter, duplicates, false positives, some wrong classes), or from a grid of 36 boxes. Without a JSON, all images get the
grid; with `--grid`, those without boxes in the JSON. Soft labels come from the class of a box; boxes without a class
get pseudo-classes from a fixed codebook of 1,600. `provenance.json` beside the files says which. With `--boxes`,
`iid_to_ann_ids.json` beside them says which annotation each box is; `prepro.py re` needs it.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from data.rng import generator
from prepare.boxes import (
    Instances,
    annotation_ids,
    boxes_of_pictures,
    check_boxes,
    cut_boxes,
    imitate,
    read_instance_boxes,
)
from prepare.left_out import HELP, LeftOut, bad_entry, nothing_left
from prepare.output import NpzNames
from prepare.pictures import PictureFile, describe_others, list_pictures, open_picture
from prepare.regions import VERSION, codebook, crops, describe, grid_boxes, project, pseudo_classes, soft_labels
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.job_folder import Job, job_folder
from utils.options import MOST_SEED, option
from utils.os_errors import writing
from utils.workers import map_in_workers

Notes: TypeAlias = dict[str, Any]  # "boxes": the index of each region's box; "cut": how many ended outside the image
Answer: TypeAlias = InputError | Notes  # why a picture cannot be described, or notes on it


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
    skip_bad: bool = option(False, help=HELP)
    nproc: int = option(2, help="number of parallel processes", at_least=1, at_most=10_000)


@dataclass(kw_only=True)
class Picture:
    """An image to describe: its file, its boxes and classes if a JSON has them, the name of its `.npz` file."""

    file: PictureFile
    npz_name: str
    instances: Instances | None  # of the JSON of boxes; None: a grid

    @property
    def stamp(self) -> list[str | int]:
        """Changes with the file and with its boxes."""
        return [str(self.file), *self.file.stamp, zlib.crc32(repr(self.instances).encode())]


def plan_pictures(config: DescribeConfig) -> list[Picture]:
    """List all images with their boxes and the names of their `.npz` files; two equal names are an `InputError`."""
    if config.boxes and config.imitate_detector:
        raise InputError("--boxes and --imitate_detector exclude each other", remedy="give one of them")
    path = config.boxes or config.imitate_detector
    instances_by_name = read_instance_boxes(path)
    files, others = list_pictures(config.images)
    file_names = [file.name for file in files]
    by_picture = boxes_of_pictures(instances_by_name, file_names, path) if path else {}
    names, pictures = NpzNames(config.img_name, config.split), []
    for file in files:
        instances = by_picture.get(file.name)
        with bad_entry(file):
            if path and not config.grid and not (instances and instances.rows):
                raise InputError(
                    "an image has no boxes",
                    file=path,
                    key=file.name,
                    remedy="add its boxes, or give --grid to use a grid of boxes for such images",
                )
            name = names.name(file.name, instances.image_id if instances else None, file)
            has_boxes = instances is not None and bool(instances.rows)
            pictures.append(Picture(file=file, npz_name=name, instances=instances if has_boxes else None))
    if others:
        print(f"{describe_others(others)} are not images of a known format")
    names.report_split()
    absent_count = len(instances_by_name) - len({instances.image_id for instances in by_picture.values()})
    if absent_count:
        print(f"{absent_count:,} of {len(instances_by_name):,} images in {path} have no file in --images")
    return pictures


def describe_picture(
    picture: Picture, n_classes: int, detector_seed: int | None
) -> tuple[dict[str, np.ndarray], Notes]:
    """Describe one image: `features`, `norm_bb`, `conf`, `soft_labels`, all float16; and notes on it.

    The most confident region comes first. `detector_seed`: the seed of the imitated detector; None: no imitation.
    """
    instances = picture.instances
    image = open_picture(picture.file, instances.size if instances else None)
    classes, size = None, image.size
    if instances:
        check_boxes(instances.boxes, size, picture.file)
    if instances is None:
        boxes = grid_boxes(image.width, image.height)
        conf = 0.5 - 0.004 * np.arange(len(boxes))
    elif detector_seed is not None:
        rng = generator(detector_seed, "detector", Path(picture.file.name).stem)
        boxes, classes, conf = imitate(instances.boxes, instances.classes, size, n_classes, rng)
    else:
        boxes, classes = instances.boxes, instances.classes
        conf = np.full(len(boxes), 0.95)
    box_indices, cut_count = np.arange(len(boxes)), 0
    if classes is not None:
        cut, visible = cut_boxes(boxes, size, picture.file)
        cut_count = int((cut != boxes)[visible].any(1).sum())
        boxes, classes, conf, box_indices = cut[visible], classes[visible], conf[visible], box_indices[visible]
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
    return arrays, {"boxes": box_indices[order].tolist(), "cut": cut_count}


def write_picture(picture: Picture, output: Path, n_classes: int, detector_seed: int | None) -> Answer:
    """Write the `.npz` file of one image; returns notes on it, or what is wrong with the image."""
    try:
        arrays, notes = describe_picture(picture, n_classes, detector_seed)
    except InputError as error:  # returned, because --skip_bad goes on
        return error
    with writing(output / picture.npz_name):
        np.savez(output / picture.npz_name, **arrays)  # type: ignore[arg-type]
    return notes


def write_all(pictures: list[Picture], job: Job, work: Callable[[Picture], Answer], nproc: int) -> list[Picture]:
    """Call `work` on every image that is not done yet, in `nproc` processes; returns the images that are described."""
    codebook()  # compute the cached codebook before the fork, so that every process has it

    def is_done(picture: Picture) -> bool:
        return job.done.get(picture.npz_name, [None])[0] == picture.stamp

    todo = [picture for picture in pictures if not is_done(picture)]
    answers = map_in_workers(work, todo, n_workers=nproc, name=lambda picture: str(picture.file))
    progress = tqdm(answers, initial=len(pictures) - len(todo), total=len(pictures), unit="image", disable=None)
    for picture, answer in zip(todo, progress):
        with bad_entry(picture.file):
            if isinstance(answer, InputError):
                raise answer
            job.finish(picture.npz_name, [picture.stamp, answer])
    described = [picture for picture in pictures if is_done(picture)]
    if not described:
        raise nothing_left("no image could be described")
    job.remove_others({picture.npz_name for picture in described})
    return described


def write_notes(config: DescribeConfig, described: list[Picture], job: Job) -> None:
    """Write `provenance.json` and, for true boxes, `iid_to_ann_ids.json`; print a summary."""
    n_grid = sum(picture.instances is None for picture in described)
    provenance: dict[str, Any] = {
        "descriptor": "fixed, without weights (prepare/regions.py)",
        "descriptor_version": VERSION,
        "boxes": config.boxes or config.imitate_detector,
        "imitated_detector": config.imitate_detector is not None,
        "pictures": len(described),
        "pictures_on_a_grid": n_grid,
        "pseudo_classes": n_grid > 0,
    }
    print(f"{len(described):,} images ({n_grid:,} with a grid of boxes) described in {config.output}")
    if config.boxes:
        notes = {picture.npz_name: job.done[picture.npz_name][1] for picture in described}
        true_boxes = [(p.instances, notes[p.npz_name]["boxes"]) for p in described if p.instances]
        orders = {str(image.image_id): annotation_ids(image, indices) for image, indices in true_boxes}
        if all(orders.values()):
            write_json(job.folder / "iid_to_ann_ids.json", {"iid_to_ann_ids": orders})
        else:
            print("  iid_to_ann_ids.json is not written: some annotations have no id, or the id of another one")
        if n_outside := sum(len(image.rows) - len(indices) for image, indices in true_boxes):
            print(f"  {n_outside:,} boxes left out: less than a pixel of them lies in their image")
        if n_cut := sum(note["cut"] for note in notes.values()):
            print(f"  {n_cut:,} boxes end a little outside their image, and are cut")
    write_json(job.folder / "provenance.json", provenance, indent=2)


def main(argv: list[str] | None = None) -> None:
    """Describe all images of the command line."""
    config, _ = parse(DescribeConfig, argv)
    with LeftOut(config.output, config.skip_bad).collecting():
        pictures = plan_pictures(config)
        instances = [picture.instances for picture in pictures if picture.instances]
        n_classes = max((int(image.classes.max()) for image in instances), default=0)
        seed = config.seed if config.imitate_detector else None
        with job_folder(config.output, {"descriptor_version": VERSION, "n_classes": n_classes, "seed": seed}) as job:
            work = partial(write_picture, output=job.folder, n_classes=n_classes, detector_seed=seed)
            write_notes(config, write_all(pictures, job, work, config.nproc), job)


if __name__ == "__main__":
    exit_on_input_error(main)
