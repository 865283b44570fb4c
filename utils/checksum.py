"""The checksum at the end of a weight file that this framework wrote: it shows when the file has changed since.

It is in the file, so that it moves with it. Readers of torch's old format, ours and the release's, stop before it.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

from utils.errors import InputError

MARK = b"\nUNITER-SHA256:"  # then 64 hexadecimal digits, the end of the file
LENGTH = len(MARK) + 64


class ChecksumWriter:
    """A stream that passes everything on to another one, and computes the checksum on the way."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._sum = stream, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write `data`; returns its length."""
        self._sum.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def finish(self) -> None:
        """Write the checksum of everything before."""
        self._stream.write(MARK + self._sum.hexdigest().encode())


def check_checksum(path: Path) -> None:
    """`InputError` when the file ends with a checksum, or a part of one, that its content does not have.

    Most files have none.
    """
    length = max(path.stat().st_size - LENGTH, 0)
    with open(path, "rb") as stream:
        stream.seek(length)
        end = stream.read()
        is_cut = MARK in end[1:] or any(end.endswith(MARK[:size]) for size in range(4, len(MARK)))
        n_equal = sum(a == b for a, b in zip(end, MARK))  # the mark itself may have changed
        if not is_cut and n_equal < len(MARK) - 2:
            return
        stream.seek(0)
        content_sum = hashlib.sha256()
        while length > 0 and (block := stream.read(min(length, 1 << 20))):
            content_sum.update(block)
            length -= len(block)
    if end != MARK + content_sum.hexdigest().encode():
        raise InputError(
            "the weight file has changed since it was written: its checksum is wrong",
            file=path,
            key="checkpoint",
            found=f"sha256 {content_sum.hexdigest()[:16]}…",
            expected="the sha256 that is written at the end of the file",
            remedy="copy the file again, or use another checkpoint",
        )
