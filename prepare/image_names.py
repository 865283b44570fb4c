"""Names of images: from the image of a text to its key in the image store."""

import posixpath
import re
from functools import lru_cache
from pathlib import Path
from string import Formatter

from prepare.annotations import COCO_NAME, Text
from prepare.entries import CONTROL, MAX_ID_BYTES, base_name, described
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

NUMBER = re.compile(r"[0-9]{1,18}")
COCO_FORM = re.compile(r"(?:COCO_[a-z]+20\d\d_([0-9]{12})_[0-9]+|(?:.*_)?([0-9]{12}))", re.IGNORECASE)
SUFFIX = re.compile(
    r"\.(jpe?g|jpe|jfif|jp2|j2k|jxl|png|apng|gif|bmp|dib|tiff?|webp|p[bgnp]m|tga|heic|heif|avif|svg|npz|npy)",
    re.IGNORECASE,
)
FIELDS: dict[str, object] = {"split": "val2014", "image_id": 42, "file_name": "a" * 64, "stem": "a" * 64}  # examples
MAX_WIDTH = 512  # of a field of a format string, such as 12 in {image_id:012}


class ImageNames:
    """Makes image keys from a format string over `split`, `image_id`, `file_name`, `stem` (no folder, no suffix).

    The argument `split` is that of images whose files and file names give none. If the file gives no `image_id`, it is
    the number at the end of the stem. `InputError` if two images get the same key, if an image has two splits or
    another one than `split`, and for a format string that can make no key.
    """

    def __init__(self, pattern: str, split: str | None = None):
        self.pattern = pattern
        self.split = split
        self._pictures: dict[str, object] = {}  # number or file name, or both, by key
        self._splits: dict[tuple[int, str], Text] = {}  # the first text of each number and year
        self._uses_number = "{image_id" in pattern
        check_pattern(pattern)

    def img_fname(self, text: Text) -> str | list[str]:
        """The field `img_fname` of a record: the key of the text's image, or a list of keys for two images."""
        keys = [self.name(picture) for picture in text.pictures()]
        return keys if len(keys) > 1 else keys[0]

    def name(self, text: Text) -> str:
        """The key of the image of `text`. `InputError` if a field of the pattern is unknown for this image."""
        stem, last_number, whole_number, is_coco = (
            parts_of(text.file_name) if text.file_name else (None, None, None, False)
        )
        fields: dict[str, object] = {
            "split": self._split(text),
            "image_id": last_number if text.image_id is None else text.image_id,
            "file_name": text.file_name,
            "stem": stem,
        }
        name = self._formatted(fields, text)
        if self._uses_number and is_coco and text.image_id not in (None, whole_number):
            raise InputError(
                "the number of an image is not that of its file name",
                file=text.source,
                key=f"id {text.id}",
                found=f"image_id {text.image_id}, file_name {text.file_name}",
                expected=f"one number, because images are named {self.pattern}",
                remedy="use the official file unchanged, or name images by their files: --img_name '{stem}.npz'",
            )
        file_name = posixpath.normpath(text.file_name.replace("\\", "/")) if text.file_name else None
        picture: object = file_name if text.image_id is None else text.image_id
        if text.image_id is not None and file_name and not is_coco:
            picture = f"{text.image_id} ({file_name})"
        if self._pictures.setdefault(name, picture) != picture:
            raise InputError(
                "two images get the same name in the image store",
                file=text.source,
                key=name,
                found=f"{self._pictures[name]} and {picture}",
                remedy="rename one image, or give an --img_name that tells them apart",
            )
        return name

    def _split(self, text: Text) -> str | None:
        """The split of an image; `InputError` where the annotations or the file name give another than `--split`."""
        if text.split and text.image_id is not None:  # COCO's images of 2017 have a second, older name
            first = self._splits.setdefault((text.image_id, text.split[-4:]), text)
            if first.split != text.split:
                raise InputError(
                    "one image is in two splits",
                    file=text.source,
                    key=f"id {text.id}, image_id {text.image_id}",
                    found=text.split,
                    expected=f"{first.split}, as for id {first.id} of {first.source}",
                    remedy="use official files of one release unchanged",
                )
        if not self.split:
            return text.split
        match = COCO_NAME.match(parts_of(text.file_name)[0]) if text.file_name else None
        image_split = match[1] if match else text.split
        # COCO's images of 2017 are those of 2014 under new names, so a split of another year contradicts a name only
        is_other = image_split and self.split not in (image_split, image_split.lower())
        if image_split and is_other and (match or image_split[-4:] == self.split[-4:]):
            raise InputError(
                "--split contradicts the split of an image",
                file=text.source,
                key=f"id {text.id}",
                found=f"--split {self.split}",
                expected=f"{image_split}, as in {text.file_name or 'the file'}",
                remedy="leave out --split; for other names give --img_name, such as 'coco_val2017_{image_id:012}.npz'",
            )
        return self.split

    def _formatted(self, fields: dict[str, object], text: Text) -> str:
        """The pattern with the values of `fields`; `InputError` where it cannot be made, or cannot be a key."""
        fields = {field: value for field, value in fields.items() if value is not None}
        try:
            name = self.pattern.format(**fields)
            if CONTROL.search(name) or not name.strip() or len(name.encode()) > MAX_ID_BYTES:
                raise ValueError(f"{described(name)} is no text of 1 to {MAX_ID_BYTES} bytes")
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            reason = f"{{{error.args[0]}}} is unknown for this image" if isinstance(error, KeyError) else str(error)
            raise InputError(
                "the image name cannot be made",
                file=text.source,
                key=f"id {text.id}",
                found=f"--img_name {described(self.pattern)}: {reason}"[:300],
                expected="a format string over " + ", ".join(fields),
                remedy="give another --img_name, or give --split (such as val2014) if the split is unknown",
            ) from None
        return name


def check_pattern(pattern: str) -> None:
    """`InputError` for a format string that makes no name of any image."""
    try:
        if is_too_wide(pattern):
            raise ValueError(f"a field is wider than {MAX_WIDTH}")
        if not pattern.format(**FIELDS).strip():
            raise ValueError("the name is empty")
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        unknown = "there is no field " + described(error.args[0]) if isinstance(error, KeyError) else str(error)
        raise InputError(
            "the image name cannot be made",
            key="--img_name",
            found=f"{described(pattern)}: {unknown}"[:300],
            expected="a Python format string over " + ", ".join(f"{{{field}}}" for field in FIELDS),
            remedy="give another --img_name, such as '{stem}.npz' or 'coco_{split}_{image_id:012}.npz'",
        ) from None


def is_too_wide(pattern: str) -> bool:
    """Whether a field of a format string is wider than any name. False for a text that is no format string."""
    try:
        specs = [spec or "" for _, _, spec, _ in Formatter().parse(pattern)]
    except ValueError:
        return False
    return any(len(width) > 3 or int(width) > MAX_WIDTH for spec in specs for width in re.findall("[0-9]+", spec))


@lru_cache(maxsize=1 << 16)  # images have several texts
def parts_of(file_name: str) -> tuple[str, int | None, int | None, bool]:
    """Stem, number at its end, and what `number_of` says, of a file name."""
    stem = stem_of(file_name)
    last_number = re.search(r"[0-9]{1,18}$", stem)
    return stem, int(last_number[0]) if last_number else None, *number_of(stem)


def stem_of(name: str) -> str:
    """The file name without its folders and without the suffix of an image."""
    stem, suffix = Path(base_name(name)).stem, Path(base_name(name)).suffix
    return stem if SUFFIX.fullmatch(suffix) else base_name(name)


def number_of(stem: str) -> tuple[int | None, bool]:
    """The number that a stem is, and whether it has COCO's form: twelve digits, maybe after a name and "_"."""
    if match := COCO_FORM.fullmatch(stem):
        return int(match[1] or match[2]), True
    return (int(stem), False) if NUMBER.fullmatch(stem) else (None, False)
