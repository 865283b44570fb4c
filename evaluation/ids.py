"""The check that predictions have exactly the ids of a split, and the rows of those ids."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from utils.errors import InputError

BREAKS_CSV = re.compile('[,"\x00-\x1f\x7f-\x9f\u2028\u2029]')  # also inside of quotes, for readers by line


def check_ids(
    ids: Iterable[Hashable], expected: Iterable[Hashable], noun: str, file: object = None, split_file: object = None
) -> None:
    """Raise `InputError` unless `ids` and `expected` hold the same ids, at least one. The error names up to five.

    `noun`: what an id stands for ("question"), `file`: where `ids` are from, `split_file`: where `expected` are from;
    all for the error.
    """
    ids, expected = set(ids), set(expected)
    if not expected:
        raise InputError(
            f"there are no {noun}s",
            file=split_file or file,
            found="an empty split",
            expected=f"at least one {noun}",
            remedy="give the annotations of the split that was predicted" if split_file else None,
        )
    for name, wrong_ids in (("unknown", ids - expected), ("missing", expected - ids)):
        if wrong_ids:
            few = ", ".join(map(str, sorted(wrong_ids, key=str)[:5]))
            raise InputError(
                f"{name} {noun} ids",
                file=file,
                key=few + (", ..." if len(wrong_ids) > 5 else ""),
                found=f"{len(wrong_ids)} {name} of {len(ids)} given",
                expected=f"exactly the {len(expected)} {noun}s of the split",
                remedy="check that the predictions were made for this split",
            )


def split_order(path: str | Path, ids: Sequence[Hashable], expected: Iterable[Hashable], noun: str) -> list[int]:
    """The row in `ids` of each expected id, in the order of `expected`.

    Raises `InputError` for missing, unknown and duplicate ids. `path` and `noun` are for the error.
    """
    row_by_id, order = {id_: row for row, id_ in enumerate(ids)}, list(expected)
    if len(row_by_id) < len(ids):
        duplicate = next(id_ for row, id_ in enumerate(ids) if row_by_id[id_] != row)
        raise InputError(
            f"one {noun} is given twice",
            file=path,
            key=duplicate,
            found=f"{list(ids).count(duplicate)} predictions",
            expected=f"one prediction for each {noun}",
            remedy="predict again",
        )
    if len(set(order)) < len(order):
        raise InputError(
            f"the split names one {noun} twice",
            file=path,
            key=next(id_ for id_, count in Counter(order).items() if count > 1),
            found=f"{len(set(order))} ids of {len(order)} {noun}s",
            expected=f"an id of its own for each {noun}",
            remedy="prepare the text store again",
        )
    check_ids(row_by_id, order, noun, path)
    return [row_by_id[id_] for id_ in order]


def check_numbers(ids: Iterable[str], file: object) -> None:
    """Raise `InputError` unless each of `ids`, from `file`, is a whole number of at most 18 digits."""
    for id_ in ids:
        if not re.fullmatch("-?[0-9]{1,18}", id_):
            expected = "a whole number, as ids of VQA and referring expressions are"
            raise InputError(
                "an id is not a number",
                file=file,
                key=id_[:80],
                found=repr(id_[:80]),
                expected=expected,
                remedy="predict for a text store that prepro.py made from the official files",
            )


def check_csv_ids(ids: Iterable[str], file: object = None) -> None:
    """`InputError` for an id that would break its line of a csv: one with a comma, a quote or a control character."""
    for id_ in ids:
        if BREAKS_CSV.search(id_):
            raise InputError(
                "an id cannot be written to a csv",
                file=file,
                key=ascii(id_)[:80],
                found=f"the character {BREAKS_CSV.search(id_)[0]!r}",  # type: ignore[index]
                expected="an id without comma, quote, line break or control character",
                remedy="give the example another id, and prepare the store again",
            )
