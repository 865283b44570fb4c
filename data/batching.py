"""Cutting of an epoch's examples into batches: the release's way, and one that drops nothing (DESIGN section 5)."""

from collections.abc import Iterator

import numpy as np

from utils.errors import InputError

BUCKET = 8192  # examples that are sorted by length together, as in the release
MULTIPLE = 8  # the number of examples in a batch of the release is a multiple of this


def release_batches(
    lens: np.ndarray, order: np.ndarray, budget: int, bucket: int = BUCKET, multiple: int = MULTIPLE
) -> list[np.ndarray]:
    """The batches of the 2020 release, each an array of examples; `order` (n,) is the permutation of an epoch.

    Each bucket is sorted by length, longest first. The length of its longest example counts for all of its examples, so
    all its batches have the same number of examples, a multiple of `multiple`. The rest, its shortest examples, is
    dropped. `lens` (n,): units of each example. [] when `multiple` examples of a bucket exceed `budget`.
    """
    batches = []
    for bucketful in _sorted_buckets(lens, order, bucket):
        size = int(budget // lens[bucketful[0]]) // multiple * multiple
        if size == 0:
            return []
        batches += [bucketful[start : start + size] for start in range(0, len(bucketful) - size, size)]
    return batches


def full_batches(lens: np.ndarray, order: np.ndarray, budget: int, bucket: int = BUCKET) -> list[np.ndarray]:
    """Batches of at most `budget` units, each an array of examples; nothing is dropped.

    Arguments as for `release_batches`. Each bucket is sorted by length, then cut where the units exceed the budget.
    """
    batches = []
    for bucketful in _sorted_buckets(lens, order, bucket):
        batches += [bucketful[start:stop] for start, stop in cut(lens[bucketful], budget)]
    return batches


def cut(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Cut (n,) sizes, in order, into the longest pieces whose sums are at most `budget`: (pieces, 2) start and stop."""
    ends, bounds, start, spent = np.cumsum(sizes), [], 0, 0
    while start < len(sizes):
        stop = int(np.searchsorted(ends, spent + budget, "right"))
        bounds.append((start, stop))
        start, spent = stop, int(ends[stop - 1])
    return np.array(bounds, np.int64).reshape(-1, 2)


def _sorted_buckets(lens: np.ndarray, order: np.ndarray, bucket: int) -> Iterator[np.ndarray]:
    """The examples of `order` in buckets of `bucket` examples, each sorted by length, longest first."""
    for start in range(0, len(order), bucket):
        bucketful = order[start : start + bucket]
        yield bucketful[np.argsort(-lens[bucketful], kind="stable")]


def no_batch(examples: int, longest: int, budget: int, name: str) -> InputError:
    """The error where `release_batches` makes no batch of so many examples, of which the longest has `longest` units.

    Its batches hold a multiple of `MULTIPLE` examples, and there must be more examples than that.
    """
    size, remedy = budget // longest // MULTIPLE * MULTIPLE, 'set "batching": "full", which drops nothing'
    if examples <= MULTIPLE:
        problem, expected = "there are too few examples", f"over {MULTIPLE} examples"
    elif size == 0:
        problem = "the batch size is too small"
        expected = f"at least {MULTIPLE * longest} units, {MULTIPLE} times the longest example"
    else:
        least = -(-examples // MULTIPLE) * MULTIPLE * longest
        problem, expected = "the batch size is too large for the data", f"fewer than {least} units"
    in_batch = f"a batch of {size} examples" if size else "no batch"
    return InputError(
        f"the release's batching makes no batch, because {problem}",
        key=f"batching of {name}",
        found=f"{examples} examples of up to {longest} units; a batch size of {budget} units makes {in_batch}",
        expected=expected,
        remedy=remedy + (", or change the batch size" if examples > MULTIPLE else ""),
    )
