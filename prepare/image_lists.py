"""Lists of images that options name (`--image_list`, `--exclude_images`, `--missing_imgs`).

A list is a JSON list, or text with one image a line: a number, a file name, or a file name and its number (Karpathy's
lists). It may also be a csv, whose header names the column, or numbers and names with commas between them. Quotes,
byte-order marks, blank lines, lines that begin with # and what follows " #" after an image do not matter.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prepare.annotations import Text
from prepare.entries import Location, bad_field, base_name
from prepare.image_names import NUMBER, SUFFIX, number_of, stem_of
from utils.errors import InputError
from utils.files import read_json, read_text

# Names of columns of a csv: of numbers, then of file names.
COLUMNS = ["image_id", "img_id", "imageid", "coco_id", "cocoid", "flickr30k_id", "file_name", "filename", "image"]
COLUMNS += ["img", "img_fn", "image_name", "img_fname", "image_file", "name", "id"]
NO_NAME = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?|[\[{].*[:,]?|.*[\]}]|null|none|nan|true|false", re.IGNORECASE)
EXPECTED = "a number, a file name, or a file name and its number; with spaces in it, a name needs its suffix"


@dataclass
class ImageList:
    """A set of images, named by number, by file name or by their keys in an image store.

    Folders are ignored, and so are suffixes of image files. A number is compared with the image's number in the
    annotations, else with the whole number that is its file name: 42 is `VG_100K/42.jpg`, and not `dog-42.jpg`. The
    number in a name of COCO's form is compared with COCO's images only: other datasets have the same numbers.
    """

    path: Path
    option: str
    ids: set[int] = field(default_factory=set)
    stems: set[str] = field(default_factory=set)
    bare_numbers: set[int] = field(default_factory=set)  # those of `ids` that stand alone, without a name
    keys: set[str] = field(default_factory=set)
    entries: list[tuple[str, set[int | str]]] = field(default_factory=list)  # the text and what it may match
    examples: list[str] = field(default_factory=list)  # the number and name of an image that was asked for
    matches: set[int | str] = field(default_factory=set)  # of numbers, stems and keys, so far

    def add(self, text: str, location: Location) -> None:
        """Add the entry `text`; `InputError` if it names no image. `location`: its place in the file."""
        name, number = split_entry(text)
        if name is None and number is None:
            raise bad_field(location, text, EXPECTED)
        words: set[int | str] = set() if number is None else {number}
        if name is None:
            self.bare_numbers |= {word for word in words if isinstance(word, int)}
        else:
            stem = stem_of(name)
            own, is_coco = number_of(stem)
            if number is not None and own not in (None, number):
                raise bad_field(location, text, f"a file name and its number, which is {own}")
            words |= {stem} | ({own} if own is not None and is_coco else set())
            self.stems.add(stem)
            if name.endswith(".npz"):
                self.keys.add(base_name(name))
                words.add(base_name(name))
        self.ids |= {word for word in words if isinstance(word, int)}
        self.entries.append((text, words))

    def has(self, picture: Text, key: Callable[[Text], str]) -> bool:
        """Whether the list names the image of `picture`. `key` makes its key in the image store."""
        if not self.examples:
            self.examples = [str(name) for name in (picture.image_id, picture.file_name) if name is not None]
        words: set[int | str] = set()
        number, is_coco = picture.image_id, True
        if picture.file_name is not None:
            stem = stem_of(picture.file_name)
            own, is_coco = number_of(stem)
            number = own if number is None else number
            words |= {stem} & self.stems
        if number is not None:
            words |= {number} & (self.ids if is_coco else self.bare_numbers)
        if self.keys:
            words |= {key(picture)} & self.keys
        self.matches |= words
        return bool(words)

    def unmatched(self) -> list[str]:
        """The entries that name none of the images asked for so far."""
        return [text for text, words in self.entries if not words & self.matches]

    def check_matched(self) -> None:
        """`InputError` if no entry named one of the images: a list that leaves out nothing is a mistake."""
        unmatched = self.unmatched()
        if len(unmatched) == len(self.entries):
            raise InputError(
                "no entry of the list names an image of the texts",
                file=self.path,
                key=self.option,
                found=f"{len(unmatched):,} entries, such as {', '.join(unmatched[:3])}",
                expected="numbers or file names of images, such as " + ", ".join(self.examples),
                remedy=f"give a list of images of this dataset, or leave out {self.option}",
            )

    def summary(self) -> str:
        """How many entries named none of the images, for the log and for errors."""
        unmatched = self.unmatched()
        few = f", such as {', '.join(unmatched[:3])}" if unmatched else ""
        return f"{self.option}: {len(unmatched):,} of {len(self.entries):,} entries match no image{few}"


def image_list(path: str | Path, option: str = "", may_be_empty: bool = False) -> ImageList:
    """Read a list of images. `InputError` for an entry that names none, with its place, and for an empty list."""
    images = ImageList(Path(path), option)
    for location, text in list_entries(images.path):
        images.add(text, location)
    if not images.entries and not may_be_empty:
        raise InputError(
            "the list names no image",
            file=path,
            key=option or None,
            found="an empty list",
            expected="a file name or a number in each line",
        )
    return images


def list_entries(path: Path) -> Iterator[tuple[Location, str]]:
    """Read the place and the text of every entry of a list."""
    content = read_text(path)
    numbered_lines = enumerate(map(str.strip, content.split("\n")), 1)
    rows = [(number, without_comment(line)) for number, line in numbered_lines if line and not line.startswith("#")]
    if rows and rows[0][1][0] in "[{" and (rows[0][1][0] == "[" or rows[0][1] == "{" or len(rows) == 1):
        entries = read_json(path)
        if not isinstance(entries, list):
            expected = "a list of image names or numbers, such as [42, 43], or one in each line"
            raise bad_field(Location(path, "the whole file"), entries, expected)
        for index, entry in enumerate(entries):
            if type(entry) not in (int, str):
                raise bad_field(Location(path, "", index), entry, EXPECTED)
            yield Location(path, "", index), str(entry).strip()
        return
    for number, text in columns([number for number, _ in rows], [cells(line) for _, line in rows], path):
        yield Location(path, f"line {number}"), text


def columns(numbers: Sequence[int], rows: list[list[str]], path: Path) -> Iterator[tuple[int, str]]:
    """The entries of a table: line number and text of each. `numbers`: those of its lines.

    A header names the column. Without one, several cells of a line are several images where the whole list is one
    line, or where its lines end with a comma; otherwise they are columns of unknown meaning, an `InputError`.
    """
    header = [cell.lower() for cell in rows[0]] if rows else []
    column = next((header.index(name) for name in COLUMNS if name in header), None)
    if column is not None:
        for number, row in zip(numbers[1:], rows[1:]):
            if len(row) != len(header):
                raise bad_field(Location(path, f"line {number}"), ",".join(row), f"{len(header)} columns")
            yield number, row[column]
        return
    is_wrapped = len(rows) == 1 or all(row[-1] == "" for row in rows[:-1])
    for number, row in zip(numbers, rows):
        texts = [cell for cell in row if cell]
        pair = sorted(texts, key=lambda text: NUMBER.fullmatch(text) is not None)
        if len(pair) == 2 and is_file_name(pair[0]) and NUMBER.fullmatch(pair[1]) and not is_wrapped:
            texts = [" ".join(pair)]  # a file name and its number
        if len(texts) > 1 and not is_wrapped:
            expected = f"{EXPECTED}; of several columns the header must name one image_id or file_name"
            raise bad_field(Location(path, f"line {number}"), ",".join(row), expected)
        yield from ((number, text) for text in texts)


def cells(line: str) -> list[str]:
    """The cells of a line: between commas, semicolons or tabs that are not quoted, or numbers between spaces."""
    if all(NUMBER.fullmatch(word) for word in line.split()):
        return line.split()
    delimiter = next((mark for mark in "\t;," if mark in line), ",")
    (row,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    return [cell.strip().strip("'").strip() for cell in row]


def without_comment(line: str) -> str:
    """A line without the comment after its images; a name may itself contain " #"."""
    images, *comment = re.split(r"\s+#", line, maxsplit=1)
    is_comment = comment and all(NUMBER.fullmatch(cell) or is_file_name(cell) for cell in cells(images) if cell)
    return images if is_comment else line


def is_file_name(text: str) -> bool:
    """Whether a cell is a file name, by its suffix or its form."""
    return bool(SUFFIX.fullmatch(Path(base_name(text)).suffix)) or number_of(text)[1]


def split_entry(text: str) -> tuple[str | None, int | None]:
    """The file name and the number of an entry; None where it has none. Both are None where it names no image."""
    if NUMBER.fullmatch(text):
        return None, int(text)
    if len(re.findall(SUFFIX.pattern + r"(?=\s|$)", text, re.IGNORECASE)) > 1 or not text.isprintable():
        return None, None
    if not stem_of(text) or NO_NAME.fullmatch(text):
        return None, None  # such as -1, 42.0, [42 or {"image_id": 42}
    name, *number = text.rsplit(None, 1)
    if number and NUMBER.fullmatch(number[0]):
        return (name, int(number[0])) if is_file_name(name) else (None, None)
    return (text, None) if is_file_name(text) or not number else (None, None)
