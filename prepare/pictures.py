"""Pictures: which files of folders and zip files are pictures, and how one is opened.

PNG, JPEG, WebP, BMP, and the first frame of GIF and TIFF are decoded, by their content, whatever their names say. No
other decoder of the picture library runs: some start programs.
"""

import io
import os
import stat
import warnings
import zipfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from utils.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MAGIC = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WEBP", b"BM": "BMP", b"GIF8": "GIF"}
MAGIC |= {b"II*\0": "TIFF", b"MM\0*": "TIFF"}
MOST_BYTES = 1 << 30  # of a file in a zip, which is unpacked into memory
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {  # its values, and what sets the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """A file whose name is that of a picture. `stamp`: size and time of change, which tell that it is the same file."""

    source: Path
    member: str | None  # file inside the zip `source`
    stamp: tuple[int, int]

    @property
    def name(self) -> str:
        """The file name without folders."""
        return PurePosixPath(self.member).name if self.member else self.source.name

    def __str__(self) -> str:
        return f"{self.source}: {self.member}" if self.member else str(self.source)


def list_pictures(sources: list[str]) -> tuple[list[PictureFile], Counter[str]]:
    """The pictures in folders, with all folders in them, and zip files, sorted by name; and the other files, by kind.

    Hidden files and folders, and macOS's own in zip files, are not looked into. `InputError` if there is no picture.
    """
    files: list[PictureFile] = []
    others: Counter[str] = Counter()
    for source in map(Path, sources):
        if source.is_dir():
            entries = _files_of_folder(source)
        elif source.is_file() and zipfile.is_zipfile(source):
            entries = _files_of_zip(source)
        else:
            raise InputError("not a folder or zip file of images", file=source, remedy="check --images")
        for file, is_hidden in entries:
            suffix = PurePosixPath(file.name).suffix.lower()
            if is_hidden:
                others["hidden"] += 1
            elif suffix in SUFFIXES:
                files.append(file)
            else:
                others[suffix or "without a suffix"] += 1
    if not files:
        raise InputError(
            "no images found",
            file=", ".join(sources),
            found=describe_others(others) or "no files",
            expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
        )
    return sorted(files, key=lambda file: (file.name, str(file.source), file.member or "")), others


def describe_others(others: Counter[str]) -> str:
    """How many files are not pictures, by kind; empty if all are."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(8))
    return f"{others.total():,} other files ({kinds})" if others else ""


def _files_of_folder(folder: Path) -> Iterator[tuple[PictureFile, bool]]:
    """All files below a folder, links followed once, and whether each is hidden."""

    def refuse(error: OSError) -> None:
        raise InputError("a folder cannot be read", file=error.filename, found=error.strerror)

    visited = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above, or a second one to this
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        hidden = [name for name in folders if name.startswith(".") or name == "__MACOSX"]
        folders[:] = sorted(set(folders) - set(hidden))
        for name in [*hidden, *names]:
            path = Path(place, name)
            stamp = (0, 0)
            if Path(name).suffix.lower() in SUFFIXES and path.exists():  # a broken link is refused when it is opened
                status = path.stat()
                stamp = status.st_size, status.st_mtime_ns
            yield PictureFile(source=path, member=None, stamp=stamp), name in hidden or name.startswith(".")


def _files_of_zip(path: Path) -> Iterator[tuple[PictureFile, bool]]:
    """All files in a zip file, and whether each is hidden."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError("the zip file cannot be read", file=path, found=error) from None
    for info in members:
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(info.filename).parts)
        yield PictureFile(source=path, member=info.filename, stamp=(info.file_size, info.CRC)), hidden


@lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    """The opened zip file, kept open in each process because listing the members of a large archive is slow."""
    return zipfile.ZipFile(path)


def open_picture(file: PictureFile, size: tuple[int, int] | None = None) -> Image.Image:
    """Read a picture as RGB: turned as its EXIF data say, transparency on white, 16 bits scaled to 8.

    `size`: width and height in the annotation file, if it has them. If they are those of the picture before it is
    turned, it is not turned, because the boxes belong to these pixels. `InputError` if the file is not a picture of a
    format of `FORMATS`, is damaged, or has another size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a picture of 100 million pixels is large, but no attack
            with Image.open(_content(file), formats=FORMATS) as image:
                image.load()
                upright = _upright(_rgb(image), _orientation(image), size)
        _check_size(upright, size, file)
        return upright
    except InputError:
        raise
    except Exception as error:  # the decoders raise many kinds for damaged files
        cause, remedy = _cause(file, error)
        raise InputError(
            "the image cannot be read",
            file=file.source,
            key=file.member,
            found=cause,
            expected=f"a whole picture: {', '.join(FORMATS)}",
            remedy=remedy,
        ) from None


def _cause(file: PictureFile, error: Exception) -> tuple[str, str]:
    """What is wrong with a file that cannot be opened as a picture, and what to do."""
    again = "copy or download it again"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"a picture that exceeds the limit of {limit:,} pixels ({error})", "make the picture smaller"
    if not isinstance(error, Image.UnidentifiedImageError):
        return str(error) or repr(error), again
    content = _content(file)
    with open(content, "rb") if isinstance(content, Path) else content as stream:
        start = stream.read(1024)
    if not start:
        return "an empty file", again
    if start.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer, not the file that it stands for", "fetch the file: git lfs pull"
    if start.removeprefix(BOM_UTF8).lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page", "download the picture itself"
    name = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
    if name and (name != "WEBP" or start[8:12] == b"WEBP"):
        return f"the start of a {name} file, then damage", again
    return "another format", "convert it to PNG or JPEG"


def _check_size(image: Image.Image, size: tuple[int, int] | None, file: PictureFile) -> None:
    if size not in (None, image.size):
        raise InputError(
            "the image has another size than its annotations say, so the boxes do not fit",
            file=file,
            found=f"{image.width} × {image.height} pixels",
            expected=f"{size[0]} × {size[1]} pixels",
            remedy="use the images that were annotated, or scale boxes and sizes",
        )


def _content(file: PictureFile) -> Path | io.BytesIO:
    """What the picture library opens; a pipe or a device is refused, because reading it may wait for ever."""
    if file.member is not None:
        if file.stamp[0] > MOST_BYTES:
            raise ValueError(f"{file.stamp[0]:,} bytes when unpacked, more than {MOST_BYTES:,}")
        return io.BytesIO(_archive(file.source).read(file.member))
    if not stat.S_ISREG(os.stat(file.source).st_mode):
        raise ValueError("not a regular file")
    return file.source


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded picture, 1 to 8; 1, upright, where the data are missing or damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data do not make a picture unusable
        return 1


def _upright(image: Image.Image, orientation: int, size: tuple[int, int] | None) -> Image.Image:
    if orientation not in TURNS:
        return image
    turned = image.transpose(TURNS[orientation])
    return image if size == image.size != turned.size else turned


def _rgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode as RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.format == "PNG")).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode in ("RGBa", "La"):
            image = image.convert(image.mode.upper())
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(pixels: np.ndarray, is_png: bool) -> np.ndarray:
    """Scale the grey values of a picture of more than 8 bits to 0..255, (height, width) uint8.

    16 bits, of which a PNG is, count to 65,535. Fractions of a TIFF count to 1, its numbers of 32 bits to 255 or, where
    one is larger, to 65,535.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 65535:  # also refuses NaN
        raise ValueError(f"grey values from {low:g} to {high:g}, not within 0..65535")
    if is_png or pixels.dtype.itemsize == 2:
        limits = [65535]
    else:
        limits = [1, 255, 65535] if pixels.dtype.kind == "f" else [255, 65535]
    largest = next(limit for limit in limits if high <= limit)
    return np.rint(pixels.astype(np.float64) * (255 / largest)).astype(np.uint8)
