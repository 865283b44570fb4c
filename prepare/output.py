"""The names of the `.npz` files that scripts write, one a picture: those that texts use."""

from pathlib import Path

from prepare.annotations import COCO_NAME, COCO_NUMBER, Text
from prepare.image_names import COCO_IMG_NAME, OWN_IMG_NAME, ImageNames
from utils.errors import InputError


class NpzNames:
    """Names `.npz` files, by default as `prepro.py` names the pictures of texts: COCO's its own way, else `{stem}.npz`.

    `pattern`: a format string over `split`, `image_id`, `file_name`, `stem`.
    """

    def __init__(self, pattern: str | None = None, split: str | None = None):
        self.pattern, self.split = pattern, split
        self._pictures: dict[str, str] = {}  # by file name

    def name(self, picture: str, image_id: int | None, source: Path) -> str:
        """The name for `picture`, a file name in `source`; `image_id` where it is known.

        `InputError` when the pattern cannot be filled in, when another picture has the name, or when it is not the name
        of an `.npz` file.
        """
        stem = Path(picture).stem
        coco = COCO_NAME.match(stem)
        is_coco = coco or (self.split and COCO_NUMBER.match(stem))
        pattern = self.pattern or (COCO_IMG_NAME if is_coco else OWN_IMG_NAME)
        split = coco.group(1) if coco else None
        text = Text(id=picture, text="", image_id=image_id, file_name=picture, split=split, source=source)
        name = ImageNames(pattern, self.split).name(text)
        if not name.endswith(".npz") or "/" in name:
            raise InputError(
                "not the name of an .npz file", key="--img_name", found=name, expected="a name ending in .npz"
            )
        if name in self._pictures:
            raise InputError(
                "two pictures get one file name",
                file=source,
                key=name,
                found=f"{self._pictures[name]} and {picture}",
                remedy="rename a picture, or give an --img_name that tells them apart",
            )
        self._pictures[name] = picture
        return name
