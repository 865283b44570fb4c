"""Worker processes of long jobs. They end with their parent, and one that dies or stands still is noticed.

Each worker has a pipe of its own. A pool with a shared one, as the standard library's, waits for ever when a worker is
killed in the middle of an answer.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from utils.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 4  # items that a worker gets at a time
AHEAD = 4  # chunks that a worker has before it is asked for its answers
PATIENCE = 60.0  # seconds without an answer, after which the screen says what the job waits for


@dataclass(kw_only=True)
class Worker:
    """A worker process, and our end of its pipe."""

    process: BaseProcess
    pipe: Connection


def map_in_workers(
    work: Callable[[Item], Result], items: Sequence[Item], *, n_workers: int, name: Callable[[Item], str]
) -> Iterator[Result]:
    """Yield `work(item)` of every item, in order, computed by worker processes, which take chunks in turn.

    `name`: what the screen calls an item. `InputError` when a worker is killed; what `work` raises is raised here.
    """
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    workers = [_start(work) for _ in range(min(n_workers, len(chunks)))]
    ahead = AHEAD * len(workers)  # a multiple of the number of workers: the chunk that follows goes to the same one
    try:
        for number in range(-ahead, len(chunks)):
            worker = workers[number % len(workers)]
            place = f"{name(chunks[max(number, 0)][0])} or one of the {CHUNK - 1} after it"
            try:
                if number + ahead < len(chunks):
                    worker.pipe.send(chunks[number + ahead])
                while number >= 0 and not worker.pipe.poll(PATIENCE):
                    print(f"waiting for {place} in process {worker.process.pid}", flush=True)
                answer = worker.pipe.recv() if number >= 0 else []
            except (EOFError, OSError):  # also in the middle of an answer
                raise _death(worker, place) from None
            if isinstance(answer, BaseException):
                raise answer
            yield from answer
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _start(work: Callable[[Any], Any]) -> Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(theirs, work), daemon=True)
    process.start()
    theirs.close()  # the worker alone holds this end, so its death ends the pipe
    return Worker(process=process, pipe=ours)


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Answer chunks with lists of results, or with the exception that `work` raised. Runs in the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    parent, parent_id = multiprocessing.parent_process(), os.getppid()

    def end_with_parent() -> None:
        while parent and parent.is_alive() and os.getppid() == parent_id:  # the last is faster where siblings live on
            parent.join(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        chunk = pipe.recv()
        try:
            pipe.send([work(item) for item in chunk])
        except Exception as error:
            pipe.send(error)


def _death(worker: Worker, place: str) -> InputError:
    """The error for a worker that has died at `place`, with its signal."""
    worker.process.join(1)
    code = worker.process.exitcode or 0
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return InputError(
        "a worker process died",
        key=place,
        found=f"process {worker.process.pid} {end}",
        remedy="if memory ran out, lower --nproc; repeat the command: it goes on where it stopped",
    )
