"""Names of the `.npz` files of region features, one file per image: the same names that text stores use."""

from pathlib import Path

from prepare.annotations import COCO_NAME, COCO_NUMBER, Text
from prepare.image_names import COCO_IMG_NAME, NUMBER, OWN_IMG_NAME, ImageNames, stem_of
from utils.errors import InputError


class NpzNames:
    """Names `.npz` files as `prepro.py` names images: COCO images by their number, all others `{stem}.npz`.

    `pattern`: another format string over `split`, `image_id`, `file_name`, `stem`. `numbers_are_coco`: with a `split`,
    a name that is only a number is COCO's, as in files of features, which give COCO images by their id.
    """

    def __init__(self, pattern: str | None = None, split: str | None = None, *, numbers_are_coco: bool = False):
        self.pattern, self.split = pattern, split
        self._coco_number = NUMBER if numbers_are_coco else COCO_NUMBER
        self._n_without_split = 0
        ImageNames(pattern or OWN_IMG_NAME)  # a wrong pattern is an error of the command, not of an image
        self._sources: dict[str, object] = {}  # by file name

    def name(self, picture: str, image_id: int | None, source: object) -> str:
        """The name for the image file `picture`, which lies at `source`; `image_id`: its number, if known.

        `InputError` if the pattern cannot be filled in, another image has the same name, or the name does not end
        in `.npz`.
        """
        stem = stem_of(picture)
        coco = COCO_NAME.match(stem)
        is_coco = coco or (self.split and self._coco_number.fullmatch(stem))
        pattern = self.pattern or (COCO_IMG_NAME if is_coco else OWN_IMG_NAME)
        self._n_without_split += "{split" not in pattern
        split = coco.group(1) if coco else None
        text = Text(id=picture, text="", image_id=image_id, file_name=picture, split=split, source=Path(str(source)))
        name = ImageNames(pattern, self.split).name(text)
        if not name.endswith(".npz") or "/" in name:
            raise InputError(
                "the name is not that of an .npz file",
                key="--img_name",
                found=name,
                expected="a name without folder that ends in .npz",
            )
        if name in self._sources:
            raise InputError(
                "two images get the same file name",
                file=source,
                key=name,
                found=f"it is already the name for {self._sources[name]}",
                remedy="rename one image, or give an --img_name that tells them apart",
            )
        self._sources[name] = source
        return name

    def report_split(self) -> None:
        """Say for how many images the split of the command line did nothing."""
        if self.split and self._n_without_split:
            remedy = f"give an --img_name with {{split}}, such as '{COCO_IMG_NAME}'"
            print(f"--split {self.split} has no effect on {self._n_without_split:,} names: {remedy}")
