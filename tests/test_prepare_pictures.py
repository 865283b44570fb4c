"""Opening of pictures: only known formats, by content; every kind of pixel as a viewer shows it."""

import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from prepare.pictures import PictureFile, describe_others, list_pictures, open_picture
from utils.errors import InputError

GREY16 = np.array([[0, 256, 32768, 65535]], np.uint16)
GREY8 = [[0, 1, 128, 255]]


def opened(path, size=None):
    return np.asarray(open_picture(PictureFile(source=path, member=None, stamp=(0, 0)), size)).astype(int)


def save(folder, image, name="a.png", **options):
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_become_8(tmp_path, name):
    pixels = opened(save(tmp_path, Image.fromarray(GREY16), name))
    assert pixels[..., 0].tolist() == pixels[..., 2].tolist() == GREY8


@pytest.mark.parametrize(("values", "expected"), [([0, 0.5, 1], [0, 128, 255]), ([0, 100, 255], [0, 100, 255])])
def test_fractions_count_to_1_or_to_255(tmp_path, values, expected):
    path = save(tmp_path, Image.fromarray(np.array([values], np.float32)), "a.tif")
    assert opened(path)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(("values", "expected"), [([0, 7, 255], [0, 7, 255]), ([0, 257, 65535], [0, 1, 255])])
def test_whole_numbers_of_32_bits_count_to_255_or_to_65535(tmp_path, values, expected):
    path = save(tmp_path, Image.fromarray(np.array([values], np.int32)), "a.tif")
    assert opened(path)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("values", [[0, np.nan], [-1, 0], [0, 1e6]])
def test_grey_values_of_an_unknown_range_are_refused(tmp_path, values):
    with pytest.raises(InputError, match="grey values"):
        opened(save(tmp_path, Image.fromarray(np.array([values], np.float32)), "a.tif"))


def clear_pictures():
    """Pictures of several modes: a clear pixel, then a red or grey one."""
    rgba = Image.fromarray(np.array([[[9, 9, 9, 0], [255, 0, 0, 255]]], np.uint8), "RGBA")
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 255, 0, 0])
    grey = Image.fromarray(np.array([[[9, 0], [80, 255]]], np.uint8), "LA")
    yield "rgba.png", rgba, {}
    yield "palette.png", palette, {"transparency": 0}
    yield "palette.gif", palette, {"transparency": 0}
    yield "grey.png", grey, {}
    yield "key.png", Image.fromarray(np.array([[[9, 9, 9], [255, 0, 0]]], np.uint8)), {"transparency": (9, 9, 9)}
    yield "rgba.webp", rgba, {"lossless": True}


@pytest.mark.parametrize(("name", "image", "options"), list(clear_pictures()), ids=lambda value: str(value)[:12])
def test_what_is_transparent_is_white(tmp_path, name, image, options):
    pixels = opened(save(tmp_path, image, name, **options))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == ([80, 80, 80] if name.startswith("grey") else [255, 0, 0])


def test_half_transparent_is_mixed_with_white(tmp_path):
    image = Image.fromarray(np.array([[[0, 0, 0, 128]]], np.uint8), "RGBA")
    assert opened(save(tmp_path, image)).max() == 127


@pytest.mark.parametrize(
    ("mode", "expected"), [("1", [255, 255, 255]), ("L", [200, 200, 200]), ("CMYK", [200, 10, 20])]
)
def test_other_modes(tmp_path, mode, expected):
    image = Image.new("RGB", (16, 16), (200, 200, 200) if mode in "1L" else (200, 10, 20)).convert(mode)
    pixels = opened(save(tmp_path, image, "a.tif"))
    assert np.abs(pixels[3, 3] - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_unless_its_annotations_have_the_unturned_size(tmp_path, orientation):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255  # top left as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(pixels), exif=exif)
    row, column = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[
        orientation
    ]
    turned = opened(path)
    assert turned.shape[:2] == ((2, 3) if orientation < 5 else (3, 2))
    assert turned[row, column].tolist() == [255] * 3 and (turned > 0).sum() == 3
    assert opened(path, (3, 2)).shape[:2] == (2, 3)
    if orientation >= 5:
        assert opened(path, (3, 2))[0, 0].tolist() == [255] * 3
        assert opened(path, (2, 3)).shape[:2] == (3, 2)
    with pytest.raises(InputError, match=r"another size[\s\S]*300 × 200"):
        opened(path, (300, 200))


def test_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.tif"):
        assert opened(save(tmp_path, frames[0], name, save_all=True, append_images=frames[1:]))[0, 0, 0] > 250


def huge_png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch /tmp/x) (w) file\nshowpage\n"
BAD = {
    "eps": (EPS, "another format"),
    "pdf": (b"%PDF-1.4\n", "another format"),
    "empty": (b"", "an empty file"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git-LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html>", "a web page"),
    "html without a type": (b"\xef\xbb\xbf<HTML>", "a web page"),
    "damaged header": (b"\x89PNG\r\n\x1a\n\0\0\0", "the start of a PNG file, then damage"),
    "damaged jpeg": (b"\xff\xd8\xff" + bytes(99), "the start of a JPEG file, then damage"),
    "a sound": (b"RIFF\0\0\0\0WAVE", "another format"),
    "ppm": (b"P6 1 1 255\n000", "another format"),
    "huge": (huge_png(), r"exceeds the limit of 178,956,970 pixels \(.*3600000000 pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_other_formats_and_damaged_files_are_refused(tmp_path, kind):
    content, expected = BAD[kind]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot be read[\s\S]*a\.png[\s\S]*{expected}[\s\S]*PNG, JPEG"):
        opened(tmp_path / "a.png")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (files, _) = list_pictures([str(tmp_path)])
    with pytest.raises(InputError, match="not a regular file"):
        open_picture(files[0])


def test_the_suffix_does_not_matter(tmp_path):
    save(tmp_path, Image.new("RGB", (2, 2), "red"), "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert opened(tmp_path / "a.jpg")[0, 0].tolist() == [255, 0, 0]


def test_all_files_are_used_or_counted(tmp_path):
    names = ["B.JPG", "c.gif", "d/e.TIFF", "d/f.txt", ".hidden.png", ".git/g.png", "noext", "h.heic"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d" / "loop").symlink_to(tmp_path)
    outside = tmp_path.parent / f"{tmp_path.name}-other"
    outside.mkdir()
    (outside / "linked.png").write_bytes(b"x")
    (tmp_path / "link").symlink_to(outside)
    files, others = list_pictures([str(tmp_path)])
    assert [file.name for file in files] == ["B.JPG", "c.gif", "e.TIFF", "linked.png"]
    assert others == {".txt": 1, "hidden": 2, "without a suffix": 1, ".heic": 1}
    assert describe_others(others).startswith("5 other files (2 hidden, ")


def test_folders_in_a_zip_are_no_pictures(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("x.jpg")
        archive.writestr("x.jpg/y.png", b"x")
        archive.writestr("__MACOSX/._y.png", b"x")
    files, others = list_pictures([str(tmp_path / "a.zip")])
    assert [file.member for file in files] == ["x.jpg/y.png"] and others == {"hidden": 1}
