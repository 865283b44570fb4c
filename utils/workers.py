"""Worker processes of long jobs. They end with their parent, and one that dies or stands still is noticed."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

from utils.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 4  # items that a worker gets at a time
AHEAD = 16  # chunks in the queue for each worker
PATIENCE = 60.0  # seconds without a result, after which the screen says what the job waits for


def map_in_workers(
    work: Callable[[Item], Result], items: Sequence[Item], *, n_workers: int, name: Callable[[Item], str]
) -> Iterator[Result]:
    """Yield `work(item)` of every item, in order, computed by worker processes.

    `name`: what the screen calls an item. `InputError` when a worker is killed; what `work` raises is raised here.
    """
    queue: deque[tuple[Sequence[Item], Future[list[Result]]]] = deque()
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(n_workers, initializer=end_with_parent)
    workers: list[BaseProcess] = []
    finished = False
    try:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            queue.append((chunk, pool.submit(_work_on, work, chunk)))
            workers = workers or [child for child in multiprocessing.active_children() if child not in others]
            if len(queue) > AHEAD * n_workers:
                yield from _wait(*queue.popleft(), name, workers)
        while queue:
            yield from _wait(*queue.popleft(), name, workers)
        finished = True
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed",
            found=_ends(workers),
            remedy="if memory ran out, lower --nproc; repeat the command: it goes on where it stopped",
        ) from None
    finally:
        if not finished:  # a worker may stand still, so nobody waits for it
            for worker in workers:
                worker.kill()
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """Make this worker process end soon after its parent, however that ends; Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, parent_id = multiprocessing.parent_process(), os.getppid()
    assert parent is not None

    def watch() -> None:
        while parent.is_alive() and os.getppid() == parent_id:  # the second is faster where siblings live on
            parent.join(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work_on(work: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    return [work(item) for item in chunk]


def _wait(
    chunk: Sequence[Item], future: "Future[list[Result]]", name: Callable[[Item], str], workers: list[BaseProcess]
) -> list[Result]:
    """The results of a chunk; says on the screen when they take long."""
    while not wait([future], PATIENCE).done:
        place = f"{name(chunk[0])} or one of the {len(chunk) - 1} after it"
        print(f"waiting for {place}; worker processes: {', '.join(str(worker.pid) for worker in workers)}", flush=True)
    return future.result()


def _ends(workers: list[BaseProcess]) -> str:
    """How the workers of a broken pool ended. The pool ends those that are left with SIGTERM, so others come first."""
    for worker in workers:
        worker.join(1)
    codes = {worker.pid: worker.exitcode or 0 for worker in workers}
    causes = {pid: code for pid, code in codes.items() if code not in (0, -signal.SIGTERM)} or codes
    ends = [
        f"process {pid} {f'by {signal.Signals(-code).name}' if code < 0 else f'with exit status {code}'}"
        for pid, code in causes.items()
    ]
    return ", ".join(ends)
