"""The structure of an LMDB file, checked before LMDB maps it into memory.

LMDB trusts its file: a page number or a length beyond the end kills the process (SIGBUS, SIGSEGV), and pages that point
at each other keep it going round for ever. The layout: a file of pages; pages 0 and 1 are headers, of which the newer
one counts; it has the root of a tree of branch pages and leaf pages; large values have pages of their own.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError
from utils.os_errors import kind_of, open_input, reading

MAGIC = 0xBEEFC0DE  # in both headers
HEADER = 152  # bytes of a header
NO_PAGE = 2**64 - 1
BRANCH, LEAF, LARGE = 1, 2, 1  # flags of pages; of a node with a large value


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the header of an LMDB says."""

    page_size: int
    entries: int
    root: int  # number of the root page; `NO_PAGE`: the LMDB is empty
    last: int  # number of the last page
    size: int  # bytes of the file
    header: bytes  # the bytes that the rest was read from


def read_layout(folder: Path) -> Layout:
    """Read the header of the LMDB in `folder`; `InputError` when `data.mdb` is missing or not an LMDB."""
    file = folder / "data.mdb"
    if not os.path.isfile(file):
        raise InputError(
            "LMDB not found",
            file=file,
            key=folder.name,
            found=kind_of(file) if os.path.exists(file) else _folder_contents(folder),
            expected="data.mdb",
            remedy="check the path and data_root, or prepare the store (docs/DATA.md)",
        )
    with reading(file), open_input(file) as stream:
        first = stream.read(HEADER)
        size = os.fstat(stream.fileno()).st_size
        page_size = struct.unpack_from("<I", first, 40)[0] if len(first) == HEADER else 0
        magic = struct.unpack_from("<I", first, 16)[0] if page_size else 0
        if magic != MAGIC or not 512 <= page_size <= 1 << 16:
            raise InputError(
                "not an LMDB",
                file=file,
                key=folder.name,
                found=f"{size:,} bytes without LMDB's header",
                expected="a data.mdb that LMDB wrote",
                remedy="copy or prepare it again",
            )
        stream.seek(page_size)
        second = stream.read(HEADER)
    headers = [header for header in (first, second) if len(header) == HEADER]
    newest = max(headers, key=lambda header: struct.unpack_from("<Q", header, 144)[0])
    entries, root, last = struct.unpack_from("<QQQ", newest, 120)
    return Layout(page_size=page_size, entries=entries, root=root, last=last, size=size, header=first + second)


def check_size(folder: Path) -> None:
    """Check that `folder` holds a whole LMDB, by its header; `InputError` when its file is missing or too short.

    LMDB does not write free pages at the end of a file, so a complete file may be shorter than its header says.
    """
    layout = read_layout(folder)
    full_size = (layout.last + 1) * layout.page_size
    if layout.size < full_size and _damage(folder / "data.mdb", layout) is not None:
        raise InputError(
            "the LMDB is truncated",
            file=folder / "data.mdb",
            found=f"{layout.size:,} bytes",
            expected=f"{full_size:,} bytes, as its header says",
            remedy="copy or prepare it again",
        )


def check_pages(folder: Path) -> None:
    """Check the whole tree of the LMDB in `folder`, but not the values; `InputError` when it is damaged.

    It reads all branch and leaf pages, so it belongs where an index is built, which reads them anyway.
    """
    damage = _damage(folder / "data.mdb", read_layout(folder))
    if damage is not None:
        raise InputError(
            "the LMDB is damaged",
            file=folder / "data.mdb",
            found=damage,
            expected="a tree of pages that each belong to it once",
            remedy="copy or prepare it again",
        )


def _damage(file: Path, layout: Layout) -> str | None:
    """What is wrong with the tree of an LMDB; None for a sound one."""
    todo = [] if layout.root == NO_PAGE else [layout.root]
    n_pages = layout.size // layout.page_size
    visited, entries = set(todo), 0
    with open_input(file) as stream:
        while todo:
            number = todo.pop()
            if not 2 <= number < n_pages:
                return f"page {number} lies outside of the file, which has {n_pages} pages"
            page = os.pread(stream.fileno(), layout.page_size, number * layout.page_size)
            problem, children, n_values = _read_page(page, number, n_pages)
            entries += n_values
            if problem or visited.intersection(children) or len(set(children)) != len(children):
                return problem or f"a page under page {number} occurs twice"
            visited.update(children)
            todo += children
    return None if entries == layout.entries else f"{entries:,} entries, and {layout.entries:,} by its header"


def _read_page(page: bytes, number: int, n_pages: int) -> tuple[str | None, list[int], int]:
    """What is wrong with a page, the pages that it points to, and its number of values."""
    own_number, _, flags, lower, upper = struct.unpack_from("<QHHHH", page)
    if own_number != number or flags & 3 not in (BRANCH, LEAF) or not 16 <= lower <= upper <= len(page) or lower % 2:
        return f"page {number} has a wrong header", [], 0
    starts = struct.unpack_from(f"<{(lower - 16) // 2}H", page, 16)
    children, last_start = [], len(page) - 8
    for start in starts:
        if not upper <= start <= last_start:
            return f"an entry of page {number} lies outside of it", [], 0
        low, high, node_flags, key_size = struct.unpack_from("<4H", page, start)
        end = start + 8 + key_size
        if flags & BRANCH:
            children.append(low | high << 16 | node_flags << 32)
        elif node_flags & LARGE:
            first = struct.unpack_from("<Q", page, end)[0] if end + 8 <= len(page) else NO_PAGE
            end += 8
            if first < 2 or first + -(-((low | high << 16) + 16) // len(page)) > n_pages:
                return f"a large value of page {number} lies outside of the file", [], 0
        else:
            end += low | high << 16
        if end > len(page):
            return f"an entry of page {number} reaches out of it", [], 0
    if flags & BRANCH and not children:
        return f"page {number} is empty", [], 0
    return None, children, 0 if flags & BRANCH else len(starts)


def _folder_contents(folder: Path) -> str:
    """For messages: the first names in `folder`, or in its parent where `folder` does not exist."""
    nearest = folder if os.path.isdir(folder) else folder.parent
    if not os.path.isdir(nearest):
        return f"{nearest} does not exist"
    names = sorted(path.name for path in nearest.iterdir())[:8]
    return f"in {nearest}: {', '.join(names) or 'nothing'}"
