"""Checksums by which a changed file is noticed: of all its bytes, or of a sample where it is too large for that."""

import os
import zlib
from pathlib import Path

import numpy as np

from utils.os_errors import open_input, reading

CHUNK = 1 << 22  # bytes that are read at a time
BLOCKS, BLOCK = 64, 4096  # of a large file, so many blocks of so many bytes are read


def file_checksum(path: str | Path) -> list[int]:
    """The size and the checksum of a file; `InputError` when it cannot be read."""
    size = checksum = 0
    with reading(path), open_input(path) as stream:
        while content := stream.read(CHUNK):
            size, checksum = size + len(content), zlib.crc32(content, checksum)
    return [size, checksum]


def sample_checksum(path: str | Path) -> list[int]:
    """The size, modification time and the checksum of a sample of a large file; `InputError` when it cannot be read."""
    checksum = 0
    with reading(path), open_input(path) as stream:
        status = os.fstat(stream.fileno())
        for start in np.linspace(0, status.st_size, BLOCKS, endpoint=False).astype(int).tolist():
            checksum = zlib.crc32(os.pread(stream.fileno(), BLOCK, start), checksum)
    return [status.st_size, status.st_mtime_ns, checksum]
