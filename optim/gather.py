"""The predictions of all ranks on rank 0, collected while a dataset is predicted, so that no other rank keeps them."""

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from utils.distributed import World
from utils.errors import InputError

T = TypeVar("T")
Predictions = dict[str, np.ndarray]
Part = tuple[int, Predictions]  # the number of a batch in its dataset, and its predictions
Layout = tuple[bool, str, tuple[int, ...]]  # of an array: are its rows arrays, kind of dtype, shape of a row

ROUND = 16  # batches of a rank between two exchanges
CHUNK_BYTES = 4 * 2**20  # what a rank receives at a time, from all ranks together
KINDS = "biufcSU"  # of dtypes: numbers and texts, whose bytes say all


class Collector:
    """Collects the predictions for a dataset on rank 0, or on every rank, in rounds.

    In a round every rank adds its next `per_round` batches, or fewer where it has no more. The number of rounds,
    `n_rounds`, is the same on all ranks.
    """

    def __init__(self, world: World, n_batches: int, subject: str, everywhere: bool = False):
        """`n_batches`: of all ranks together. `subject`: whose predictions, for errors. `everywhere`: on every rank."""
        self.world, self.n_batches, self.subject, self.everywhere = world, n_batches, subject, everywhere
        self.per_round = ROUND
        self.n_rounds = -(-n_batches // (world.size * ROUND))
        self._parts: list[Part] = []
        self._layouts: dict[str, tuple[int, Layout]] = {}  # by name: the first batch with rows, and its layout
        self._names: tuple[int, list[str]] | None = None  # the first batch, and the names of its arrays

    def add(self, parts: list[Part]) -> None:
        """Exchange this rank's predictions of one round. All ranks call it `n_rounds` times.

        `InputError` when batches differ in the names, kinds of dtypes or row shapes of their arrays.
        """
        self._check(parts)
        if self.world.size > 1:
            messages = gather_bytes(self.world, pack(parts, self.n_batches), self.everywhere)
            by_rank = [unpack(message.numpy()) for message in messages]
            self._check_plans([n_batches for n_batches, _ in by_rank])
            parts = [part for _, rank_parts in by_rank for part in rank_parts]
            self._check(parts)
        if self.everywhere or self.world.is_main:
            self._parts += parts

    def join(self) -> Predictions:
        """The arrays of all batches by name, each joined along its first axis in the order of batches; {} on ranks that
        do not keep them."""
        if not self._parts:
            return {}
        parts = [predictions for _, predictions in sorted(self._parts, key=lambda part: part[0])]
        assert len(parts) == self.n_batches
        return {name: _concatenate([part[name] for part in parts]) for name in parts[0]}

    def _check(self, parts: list[Part]) -> None:
        """`InputError` unless these parts have the names and layouts of the parts before."""
        for number, predictions in parts:
            names = sorted(predictions)
            self._names = self._names or (number, names)
            if names != self._names[1]:
                raise self._misfit("", number, ", ".join(names), self._names[0], ", ".join(self._names[1]))
            for name, array in predictions.items():
                layout = layout_of(array, f"{self.subject}: {name}")
                if len(array):
                    first, first_layout = self._layouts.setdefault(name, (number, layout))
                    if layout != first_layout:
                        raise self._misfit(f": {name}", number, describe(layout), first, describe(first_layout))

    def _misfit(self, name: str, number: int, layout: str, first: int, first_layout: str) -> InputError:
        return InputError(
            "the predictions of two batches do not fit together",
            key=f"{self.subject}{name}",
            found=f"{layout} in batch {number}",
            expected=f"{first_layout}, as in batch {first}",
            remedy="let the task's `predict` return the same names, kinds of dtypes and row shapes for every batch",
        )

    def _check_plans(self, n_batches: list[int]) -> None:
        """`InputError` unless all ranks cut the dataset into the same number of batches."""
        if len(set(n_batches)) > 1:
            raise InputError(
                "the ranks have different evaluation data",
                key=self.subject,
                found=f"{', '.join(map(str, n_batches))} batches, by rank",
                expected="the same number on every rank",
                remedy="give all machines the same stores, options and version of the code",
            )


def layout_of(array: np.ndarray, subject: str) -> Layout:
    """The layout of an array of predictions; `InputError`, about `subject`, for one whose bytes would not say all."""
    problem = ""
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        problem = f"a {type(array).__name__}" + (" without axes" if isinstance(array, np.ndarray) else "")
    elif array.dtype == object:
        kinds = {type(row).__name__ for row in array.flat if not (isinstance(row, np.ndarray) and row.ndim)}
        layouts = {(row.dtype.str, row.shape[1:]) for row in array.flat if not kinds}
        if not layouts and not kinds:
            return True, "", ()
        dtype, row_shape = next(iter(layouts), ("O", ()))
        if array.ndim == 1 and len(layouts) == 1 and np.dtype(dtype).kind in KINDS:
            return True, np.dtype(dtype).kind, row_shape
        problem = f"an array of objects: {', '.join(sorted(kinds)) or 'arrays of several dtypes or row shapes'}"
    elif array.dtype.kind not in KINDS or array.dtype.hasobject:
        problem = f"an array of {array.dtype}"
    else:
        return False, array.dtype.kind, array.shape[1:]
    raise InputError(
        "predictions have a type that cannot go to another rank",
        key=subject,
        found=problem,
        expected="a numpy array with a row for each prediction, of numbers or texts, or of such arrays (`ragged`)",
        remedy="let the task's `predict` return such arrays",
    )


def describe(layout: Layout) -> str:
    """The layout of an array in words."""
    has_arrays, kind, row_shape = layout
    kinds = {"b": "bool", "i": "int", "u": "unsigned int", "f": "float", "c": "complex", "S": "bytes", "U": "text"}
    return f"{'arrays' if has_arrays else 'rows'} of {kinds[kind]}, of row shape {row_shape}"


def ragged(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Put E arrays of different lengths into one (E,) array of objects, which can be joined along its axis."""
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def gather_bytes(world: World, message: bytearray, everywhere: bool = False) -> list[Tensor]:
    """Send `message` to rank 0; returns there the messages of all ranks in their order, uint8, and [] elsewhere.

    `everywhere`: every rank gets them. Messages may differ in length. They travel in chunks that every rank sees,
    because not every backend can send to one rank alone. A rank that does not keep them throws each chunk away, so
    that it needs little memory beside its own message.
    """
    content = torch.frombuffer(message, dtype=torch.uint8) if message else torch.empty(0, dtype=torch.uint8)
    if world.size == 1:
        return [content]
    sizes = [int(size) for size in world.all_gather(torch.tensor([len(content)]))]
    keeps = everywhere or world.is_main
    messages = [torch.empty(size, dtype=torch.uint8) for size in sizes] if keeps else []
    step = max(1, CHUNK_BYTES // world.size)
    for start in range(0, max(sizes), step):
        chunk = torch.zeros(min(step, max(sizes) - start), dtype=torch.uint8)
        own_part = content[start : start + step]
        chunk[: len(own_part)] = own_part
        chunks = world.all_gather(chunk)
        for whole, part in zip(messages, chunks):
            place = whole[start : start + step]
            place.copy_(part[: len(place)])
    return messages


def pack(parts: list[Part], n_batches: int) -> bytearray:
    """Parts as bytes: the length of a header (8 bytes), the header (JSON), and the bytes of every array."""
    batches, contents = [], []
    for number, predictions in parts:
        entries = []
        for name, array in predictions.items():
            lengths = None
            if array.dtype == object:
                lengths = [len(row) for row in array]
                array = np.concatenate(list(array)) if lengths else np.empty(0)
            entries.append([name, array.dtype.str, array.shape, lengths])
            contents.append(array.tobytes())
        batches.append([number, entries])
    header = json.dumps({"n_batches": n_batches, "batches": batches}).encode()
    return bytearray().join([len(header).to_bytes(8, "little"), header, *contents])


def unpack(message: np.ndarray) -> tuple[int, list[Part]]:
    """The `n_batches` and the parts in a message (n,) uint8 of `pack`. Their arrays are views into it, except `ragged`
    ones."""
    start = 8 + int.from_bytes(message[:8].tobytes(), "little")
    header = json.loads(message[8:start].tobytes())
    parts = []
    for number, entries in header["batches"]:
        predictions = {}
        for name, dtype, shape, lengths in entries:
            array: np.ndarray = np.ndarray(shape, dtype, message, start)
            start += array.nbytes
            if lengths is not None:
                array = ragged(np.split(array.copy(), np.cumsum(lengths)[:-1]) if lengths else [])
            predictions[name] = array
        parts.append((number, predictions))
    return header["n_batches"], parts


def from_main(world: World, compute: Callable[[], T], subject: str) -> T:
    """Call `compute` on rank 0; returns its result on every rank. Where it raises, all ranks raise.

    `subject`: what rank 0 computes, for the `InputError` of other ranks.
    """
    if world.is_main:
        try:
            result = compute()
        except Exception as error:
            world.broadcast_object((None, f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"))
            raise
        world.broadcast_object((result, None))
        return result
    outcome: tuple[T, str | None] = world.broadcast_object(None)
    if outcome[1] is not None:
        raise InputError(f"rank 0 could not compute {subject}", found=outcome[1], remedy="read the message of rank 0")
    return outcome[0]


def _concatenate(arrays: list[np.ndarray]) -> np.ndarray:
    """Join arrays along their first axis. One without rows has no say in dtype and shape."""
    return np.concatenate([array for array in arrays if len(array)] or arrays[:1])
