"""From a text's picture to the key of that picture in the image store."""

import re
from pathlib import Path

from prepare.annotations import Text
from utils.errors import InputError

COCO_IMG_NAME = "coco_{split}_{image_id:012}.npz"  # the release's names
NLVR2_IMG_NAME = "nlvr2_{stem}.npz"
RE_IMG_NAME = "visual_grounding_coco_gt_{image_id:012}.npz"
OWN_IMG_NAME = "{stem}.npz"  # ours, and the following
FLICKR_IMG_NAME = "flickr30k_{image_id:012}.npz"
VCR_IMG_NAME = "vcr_{stem}.npz"
VCR_GT_IMG_NAME = "vcr_gt_{stem}.npz"


class ImageNames:
    """Makes keys by a format string over `split`, `image_id`, `file_name`, `stem` (no folder, no suffix).

    `split` replaces the one that the annotation file tells. `image_id` is, where the file tells none, the number that
    ends the stem. No two pictures may get one name.
    """

    def __init__(self, pattern: str, split: str | None = None):
        self.pattern = pattern
        self.split = split
        self._pictures: dict[str, str | int | None] = {}  # number or file name by key

    def img_fname(self, text: Text) -> str | list[str]:
        """`img_fname` of a record: the key of the text's picture, or a list of them where it has two."""
        keys = [self.name(picture) for picture in text.pictures()]
        return keys if len(keys) > 1 else keys[0]

    def name(self, text: Text) -> str:
        """The key of the picture of `text`; `InputError` where a field of the pattern is not known for it."""
        stem = Path(text.file_name).stem if text.file_name else None
        number = re.search(r"\d+$", stem or "")
        fields = {
            "split": self.split or text.split,
            "image_id": int(number[0]) if text.image_id is None and number else text.image_id,
            "file_name": text.file_name,
            "stem": stem,
        }
        fields = {field: value for field, value in fields.items() if value is not None}
        try:
            name = self.pattern.format(**fields)
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise InputError(
                "an image name cannot be made",
                file=text.source,
                key=f"id {text.id}",
                found=f"--img_name {self.pattern!r}: {error!r}",
                expected="a format string over " + ", ".join(fields),
                remedy="give --img_name, or --split (such as val2014) where it is the split that is not known",
            ) from None
        picture = text.file_name if text.image_id is None else text.image_id
        if self._pictures.setdefault(name, picture) != picture:
            raise InputError(
                "two pictures get one name in the image store",
                file=text.source,
                key=name,
                found=f"{self._pictures[name]} and {picture}",
                remedy="rename a picture, or give an --img_name that tells them apart",
            )
        return name
