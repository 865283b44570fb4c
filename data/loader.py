"""Building of packed batches from batch plans, in loader processes. Their number changes neither batches nor order."""

import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.batch import PackedBatch, collate
from data.dataset import Dataset
from data.rng import generator
from data.sampler import BatchPlan
from data.workers import Workers
from utils.errors import InputError, as_input_error

PREFETCH = 4  # batches of each loader process that are under way
Planned = tuple[BatchPlan, PackedBatch]


class BatchBuilder:
    """Builds the batch of a plan."""

    def __init__(self, datasets: Sequence[Dataset], by_id: bool):
        """`datasets`: indexed by `BatchPlan.source`. `by_id`: seed the random choices of an example by its id (for
        evaluation), else by its number in the dataset."""
        self.datasets, self.by_id = datasets, by_id

    def __call__(self, plan: BatchPlan, empty: Callable[..., Tensor] = torch.empty) -> PackedBatch:
        """Build the batch of `plan`. `empty(shape, dtype=…)` makes its largest tensors.

        `InputError`, with the stores and the example, for everything that goes wrong with an example.
        """
        dataset = self.datasets[plan.source]
        examples = []
        for i, row in zip(plan.indices.tolist(), plan.pairs.tolist()):
            rng = generator(*plan.key, dataset.id(i) if self.by_id else i)
            try:
                examples.append(dataset.example(row, rng))
            except Exception as error:
                raise _example_error(error, dataset, i) from error
        return collate(dataset.task, examples, dataset.img_dim, empty)

    def subject(self, plan: BatchPlan) -> dict[str, Any]:
        """The parts of an error about a batch: the stores as `file`, the task and its first examples as `key`."""
        dataset = self.datasets[plan.source]
        ids = [dataset.id(i) for i in plan.indices[:3].tolist()]
        more = f" and {len(plan.indices) - 3} more" if len(plan.indices) > 3 else ""
        return {"file": ", ".join(_stores(dataset)) or None, "key": f"{_title(dataset)}: {', '.join(ids)}{more}"}


def _title(dataset: Dataset) -> str:
    """The name of a dataset's task for a message: visual entailment has the batches of another task."""
    return getattr(dataset, "title", "") or dataset.task


def _stores(dataset: Any) -> list[str]:
    """The paths of the stores behind a dataset and those that it is made of, where they have the usual attributes."""
    stores: list[Any] = [getattr(dataset, name, None) for name in ("texts", "images")]
    stores += getattr(dataset, "image_stores", ())
    paths = [str(store.path) for store in stores if hasattr(store, "path")]
    for part in (*getattr(dataset, "parts", ()), getattr(dataset, "captions", None)):
        paths += [] if part is None else _stores(part)
    return list(dict.fromkeys(paths))


def _example_error(error: Exception, dataset: Dataset, i: int) -> InputError:
    """What went wrong with an example, as an `InputError`."""
    if isinstance(error, InputError):
        return error
    system = as_input_error(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InputError(
        "an example cannot be made",
        file=", ".join(_stores(dataset)) or None,
        key=f"{_title(dataset)}: {dataset.id(i)}",
        found=f"{type(error).__name__}: {str(error)[:200]}, in {Path(place.filename).name} line {place.lineno}",
        expected="a record with the fields of this task (docs/DATA.md)",
        remedy=str(system).splitlines()[0] if system else "check the stores: python -m scripts.check",
    )


def load_batches(
    builder: BatchBuilder, plans: Iterable[BatchPlan], n_workers: int, pin_memory: bool = False
) -> Generator[Planned]:
    """Iterate over plans with their batches, in the order of `plans`.

    `n_workers`: loader processes; 0 builds batches in this process. `pin_memory`: put batches in page-locked memory,
    where there is a GPU. `InputError` when a record cannot be used, and when a loader process dies or stalls.
    """
    pin_memory = pin_memory and torch.cuda.is_available()  # only copies to a GPU gain from it
    if n_workers == 0:
        for plan in plans:
            batch = builder(plan)
            yield plan, batch.pin_memory() if pin_memory else batch
        return
    with Workers(builder, n_workers) as workers:
        batches = _from_workers(workers, builder, plans, n_workers * PREFETCH)
        if pin_memory:
            batches = _one_ahead((plan, batch.pin_memory()) for plan, batch in batches)
        with closing(batches), closing(workers):  # a thread that waits for a worker ends with the worker
            for planned in batches:  # noqa: UP028 (`yield from` would close `batches` before the workers)
                yield planned


def _from_workers(
    workers: Workers, builder: BatchBuilder, plans: Iterable[BatchPlan], n_ahead: int
) -> Generator[Planned]:
    """Plans with their batches, which the workers build in turn; `n_ahead` of them are under way."""
    more_plans = iter(plans)
    waiting: deque[BatchPlan] = deque()  # plans without a batch, the oldest first
    for number in count():
        while len(waiting) < n_ahead and (plan := next(more_plans, None)) is not None:
            workers[number + len(waiting)].submit(plan, partial(builder.subject, plan))
            waiting.append(plan)
        if not waiting:
            return
        plan = waiting.popleft()
        result = workers[number].result(partial(builder.subject, plan))
        if isinstance(result, Exception):
            raise result
        yield plan, result


def _one_ahead(items: Iterator[Planned]) -> Generator[Planned]:
    """Run an iterator in a thread, one item ahead, with the GPU of the calling thread.

    The thread has ended when this iterator is closed: one that lives on while Python shuts down can abort the process.
    """
    results: queue.Queue[Planned | BaseException | None] = queue.Queue(1)
    is_over = threading.Event()
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def put(result: Planned | BaseException | None) -> None:
        while not is_over.is_set():
            with suppress(queue.Full):
                return results.put(result, timeout=1)

    def run() -> None:
        try:
            if device is not None:  # a new thread would take GPU 0, on every rank
                torch.cuda.set_device(device)
            for item in items:
                put(item)
                if is_over.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        is_over.set()
        with suppress(queue.Empty):
            results.get_nowait()  # so that the thread need not wait for a place
        thread.join()
