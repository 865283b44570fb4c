"""Names of images: from the image of a text to its key in the image store."""

import re
from pathlib import Path

from prepare.annotations import Text
from utils.errors import InputError

# The names of the release.
COCO_IMG_NAME = "coco_{split}_{image_id:012}.npz"
NLVR2_IMG_NAME = "nlvr2_{stem}.npz"
RE_IMG_NAME = "visual_grounding_coco_gt_{image_id:012}.npz"
# Our own names.
OWN_IMG_NAME = "{stem}.npz"
FLICKR_IMG_NAME = "flickr30k_{image_id:012}.npz"
VCR_IMG_NAME = "vcr_{stem}.npz"
VCR_GT_IMG_NAME = "vcr_gt_{stem}.npz"


class ImageNames:
    """Makes image keys from a format string over `split`, `image_id`, `file_name`, `stem` (no folder, no suffix).

    The argument `split` overrides the split of the annotation file. If the file gives no `image_id`, it is the number
    at the end of the stem. `InputError` if two images get the same key.
    """

    def __init__(self, pattern: str, split: str | None = None):
        self.pattern = pattern
        self.split = split
        self._pictures: dict[str, str | int | None] = {}  # number or file name by key

    def img_fname(self, text: Text) -> str | list[str]:
        """The field `img_fname` of a record: the key of the text's image, or a list of keys for two images."""
        keys = [self.name(picture) for picture in text.pictures()]
        return keys if len(keys) > 1 else keys[0]

    def name(self, text: Text) -> str:
        """The key of the image of `text`. `InputError` if a field of the pattern is unknown for this image."""
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
                "the image name cannot be made",
                file=text.source,
                key=f"id {text.id}",
                found=f"--img_name {self.pattern!r}: {error!r}",
                expected="a format string over " + ", ".join(fields),
                remedy="give another --img_name, or give --split (such as val2014) if the split is unknown",
            ) from None
        picture = text.file_name if text.image_id is None else text.image_id
        if self._pictures.setdefault(name, picture) != picture:
            raise InputError(
                "two images get the same name in the image store",
                file=text.source,
                key=name,
                found=f"{self._pictures[name]} and {picture}",
                remedy="rename one image, or give an --img_name that tells them apart",
            )
        return name
