"""Messages between the training process and its loader processes. Tensors travel in shared memory, without a copy.

The shared memory of a message is an anonymous file, which lives as long as somebody uses it and lies on no disk, so
neither a small `/dev/shm` nor a killed process can leave anything behind. Only its descriptor goes through a socket.
"""

import errno
import io
import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

HEADER = struct.Struct("<qqq")  # start and size of the pickled message, and 0 or the error that replaces it
ALIGNMENT = 64  # bytes: tensors begin at multiples of it, as in torch's own memory


class SharedMemory:
    """The memory of one message, which grows. Its tensors may be made in it, so that sending does not copy them."""

    def __init__(self) -> None:
        """Make an empty one. `OSError` when this process has too many open files."""
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("batch", os.MFD_CLOEXEC)
        else:  # not Linux
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        self.size = 0
        self._places: dict[int, int] = {}  # start of a tensor that was made here, by its address

    def close(self) -> None:
        """Give up the memory; those who have received it keep it."""
        os.close(self.fd)

    def _reserve(self, size: int, alignment: int = ALIGNMENT) -> int:
        """Room for `size` bytes; returns its start."""
        start = -(-self.size // alignment) * alignment
        self.size = start + size
        os.ftruncate(self.fd, self.size)
        return start

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor in this memory."""
        size = int(np.prod(shape)) * dtype.itemsize
        if size == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        start = self._reserve(size, mmap.ALLOCATIONGRANULARITY)
        tensor = torch.frombuffer(mmap.mmap(self.fd, size, offset=start), dtype=dtype).view(*shape)
        self._places[tensor.data_ptr()] = start
        return tensor

    def place(self, buffer: pickle.PickleBuffer) -> tuple[int, int]:
        """The start and size of a buffer in this memory, into which it is copied unless it was made here."""
        content = buffer.raw()
        start = self._places.get(np.frombuffer(content, np.uint8).ctypes.data)
        if start is None:
            start = self._reserve(content.nbytes)
            self.write(start, content)
        return start, content.nbytes

    def write(self, start: int, content: memoryview | bytes) -> None:
        """Copy bytes to `start`."""
        view = memoryview(content)
        while len(view):
            n = os.pwrite(self.fd, view, start)
            start, view = start + n, view[n:]


class _Pickler(pickle.Pickler):
    """A pickler that hands the bytes of tensors over as buffers."""

    def reducer_override(self, obj: Any) -> Any:
        """How to pickle `obj`."""
        if type(obj) is not Tensor or obj.numel() == 0:
            return NotImplemented
        content: Any = obj.contiguous().view(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(content), obj.dtype, tuple(obj.shape))


def _tensor(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(buffer, dtype=dtype).view(shape)


def send(channel: socket.socket, value: Any, memory: SharedMemory | None = None) -> None:
    """Send `value` with its tensors, those made in `memory` without a copy. Closes `memory`.

    `OSError` when the receiver is gone or memory cannot be had.
    """
    memory = memory or SharedMemory()
    try:
        places: list[tuple[int, int]] = []
        stream = io.BytesIO()
        _Pickler(stream, 5, buffer_callback=lambda buffer: places.append(memory.place(buffer))).dump(value)
        message = pickle.dumps((places, stream.getvalue()))
        start = memory._reserve(len(message))
        memory.write(start, message)
        socket.send_fds(channel, [HEADER.pack(start, len(message), 0)], [memory.fd])
    finally:
        memory.close()


def send_error(channel: socket.socket, error: OSError) -> None:
    """Send an error of the operating system that kept a message from being made; it needs no memory."""
    channel.sendall(HEADER.pack(0, 0, error.errno or errno.EIO))


def receive(channel: socket.socket) -> Any:
    """Receive a message of `send`. `EOFError` when the sender is gone, `OSError` for an error of either side."""
    header, fds, _, _ = socket.recv_fds(channel, HEADER.size, 1)
    if len(header) < HEADER.size:
        raise EOFError
    start, size, code = HEADER.unpack(header)
    if code or not fds:  # without room for the descriptor the system drops it
        code = code or errno.EMFILE
        raise OSError(code, os.strerror(code))
    try:
        view = memoryview(mmap.mmap(fds[0], 0))
    finally:
        os.close(fds[0])
    places, message = pickle.loads(view[start : start + size])
    return pickle.loads(message, buffers=[view[place : place + n] for place, n in places])
