"""Whether the ids of predictions are exactly those of a split, and in which rows they stand."""

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from utils.errors import InputError


def check_ids(ids: Iterable[Hashable], expected: Iterable[Hashable], noun: str) -> None:
    """`InputError` unless `ids` and `expected` hold the same ids, at least one. The error names a few.

    `noun`: what an id stands for ("question"), for the message.
    """
    ids, expected = set(ids), set(expected)
    for name, wrong_ids in (("unknown", ids - expected), ("missing", expected - ids)):
        if wrong_ids:
            few = ", ".join(map(str, sorted(wrong_ids, key=str)[:5]))
            raise InputError(
                f"{name} {noun} ids",
                key=few + (", ..." if len(wrong_ids) > 5 else ""),
                found=f"{len(wrong_ids)} {name} of {len(ids)} given",
                expected=f"exactly the {len(expected)} {noun}s of the split",
                remedy="check that predictions and split belong together",
            )
    if not expected:
        raise InputError(f"no {noun}s at all")


def split_order(path: str | Path, ids: Sequence[Hashable], expected: Iterable[Hashable], noun: str) -> list[int]:
    """The row of each expected id in `ids`. Refuses missing, unknown and duplicate ids; `path` is for the error."""
    row_by_id, order = {id_: row for row, id_ in enumerate(ids)}, list(expected)
    if len(row_by_id) < len(ids):
        duplicate = next(id_ for row, id_ in enumerate(ids) if row_by_id[id_] != row)
        raise InputError(f"one {noun} is given twice", file=path, key=duplicate)
    if len(set(order)) < len(order):
        raise InputError(f"the split names one {noun} twice", file=path)
    check_ids(row_by_id, order, noun)
    return [row_by_id[id_] for id_ in order]
