"""What scripts write for many pictures: folders that appear whole, `.npz` files under the names that texts use."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prepare.annotations import COCO_NAME, COCO_NUMBER, Text
from prepare.image_names import COCO_IMG_NAME, OWN_IMG_NAME, ImageNames
from utils.errors import InputError


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into; it appears at `path` when the block ends well, else nothing does."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError("the output is there and not empty", file=path, remedy="name a new folder, or delete this one")
    making = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    making.mkdir(parents=True)
    try:
        yield making
        os.sync()  # once, rather than for each of many small files
        if path.exists():
            path.rmdir()
        os.rename(making, path)
    finally:
        shutil.rmtree(making, ignore_errors=True)


class NpzNames:
    """Names `.npz` files, by default as `prepro.py` names the pictures of texts: COCO's its own way, else `{stem}.npz`.

    `pattern`: a format string over `split`, `image_id`, `file_name`, `stem`.
    """

    def __init__(self, pattern: str | None = None, split: str | None = None):
        self.pattern, self.split = pattern, split
        self._taken: dict[str, str] = {}

    def name(self, picture: str, image_id: int | None, source: Path) -> str:
        """The name for `picture`, a file name found in `source`, with its id where it is known.

        `InputError` when the pattern cannot be filled in, or the name is taken or is not one of an `.npz` file.
        """
        stem = Path(picture).stem
        coco = COCO_NAME.match(stem)
        known_as_coco = coco or (self.split and COCO_NUMBER.match(stem))
        pattern = self.pattern or (COCO_IMG_NAME if known_as_coco else OWN_IMG_NAME)
        split = coco.group(1) if coco else None
        name = ImageNames(pattern, self.split).name(Text(picture, "", image_id, picture, split, source))
        if not name.endswith(".npz") or "/" in name:
            raise InputError(
                "not the name of an .npz file", key="--img_name", found=name, expected="a name ending in .npz"
            )
        if name in self._taken:
            raise InputError(
                "two pictures get one file name",
                file=source,
                key=name,
                found=f"{self._taken[name]} and {picture}",
                remedy="rename a picture, or give an --img_name that tells them apart",
            )
        self._taken[name] = picture
        return name
