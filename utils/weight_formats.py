"""The format of a file that was given as a checkpoint, by its first bytes: for its reader, and for error messages."""

import os
import re
import zipfile
from pathlib import Path

CONVERSION = "such as BertModel.from_pretrained(FOLDER, from_tf=True).save_pretrained(NEW_FOLDER) of Hugging Face"
UNPACK, DOWNLOAD = "unpack it, and give the weight file in it", "download the weight file itself"
RESAVE = "save a map from names to tensors with torch.save"
# Beginnings of files, the names of their formats, and what to do.
FORMATS = (
    (
        b"version https://git-lfs.github.com",
        "a Git LFS pointer, not the file itself",
        "fetch the file with git lfs pull",
    ),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\x89HDF", "an HDF5 file, as of Keras", f"convert it to PyTorch, {CONVERSION}"),
    (b"\x93NUMPY", "a numpy array", RESAVE),
    (b"GGUF", "a GGUF file", "give the weights that it was made from"),
    (b"%PDF", "a PDF document", DOWNLOAD),
    (b"\xff\xfe", "a text in UTF-16", DOWNLOAD),
    (b"\x80\x03", "a Python pickle that torch.save did not write", RESAVE),
    (b"\x80\x04", "a Python pickle that torch.save did not write", RESAVE),
    (b"\x80\x05", "a Python pickle that torch.save did not write", RESAVE),
)
TENSORFLOW_NAME = re.compile(r".*\.(index|meta|data-\d+-of-\d+)")


def is_safetensors(path: Path) -> bool:
    """Whether a file is in the format of safetensors: by its name, or by its first bytes."""
    if path.suffix == ".safetensors":
        return True
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        return False
    with open(path, "rb") as stream:
        start = stream.read(9)
    header_size = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and header_size <= path.stat().st_size - 8


def other_format(path: Path) -> tuple[str, str] | None:
    """The format of a file that torch cannot read, in words, and what to do about it; None where it is unknown."""
    with open(path, "rb") as stream:
        start = stream.read(512)
    if TENSORFLOW_NAME.fullmatch(path.name):
        return "a checkpoint of TensorFlow, by its name", f"convert it to PyTorch, {CONVERSION}"
    if not start.strip(b"\0"):
        return ("zero bytes, as of a copy that was cut off" if start else "an empty file"), "copy or write it again"
    for beginning, name, remedy in FORMATS:
        if start.startswith(beginning):
            return name, remedy
    if start[257:262] == b"ustar":
        return "a tar archive", UNPACK
    if start.startswith(b"PK"):
        return _zip_format(path)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page", f"{DOWNLOAD}: the address was that of a page, or needs a login"
    if text.startswith((b"{", b"[")):
        return "a JSON file", "give the weight file beside it"
    if text and all(byte >= 32 or byte in b"\t\r\n\f" for byte in text) and b"\x7f" not in text:
        return f"a text: {start[:40].decode(errors='replace')!r}", DOWNLOAD
    return None


def _zip_format(path: Path) -> tuple[str, str] | None:
    """As `other_format`, for a zip. None for a damaged one, and for one of torch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return None
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program", "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE), and give that file"
    if any(name.endswith("/data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of numpy (npz)", RESAVE
    return "a zip archive of other files: " + ", ".join(names[:4]), UNPACK
