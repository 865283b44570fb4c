"""Loader processes: each does its tasks in order, and its death, an error or a stall is said within seconds."""

import atexit
import logging
import multiprocessing
import os
import resource
import signal
import socket
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import torch

from data.shared_memory import SharedMemory, receive, send, send_error
from utils.errors import InputError, as_input_error
from utils.os_errors import REMEDIES as OS_REMEDIES

LOG = logging.getLogger("uniter")

SLICE = 5.0  # seconds of one wait
NOTE_AFTER = 20.0  # seconds without a result after which the log says what is waited for
STALL_LIMIT = 600.0  # seconds without a result after which the run stops
STATES = {
    "T": "it is stopped: continue it with kill -CONT",
    "t": "a debugger holds it",
    "D": "it waits for a disk or a network file system",
    "R": "it is computing",
    "S": "it sleeps",
    "Z": "it has ended",
}
REMEDIES = {
    signal.SIGKILL: "mostly the system is out of memory: lower n_workers, or the batch size",
    signal.SIGBUS: "a store was cut while it was read, or memory is short: run python -m scripts.check on the stores, "
    "or lower n_workers",
    signal.SIGSEGV: "a store is damaged: run python -m scripts.check on the stores",
}

Subject = Callable[[], dict[str, Any]]  # makes the parts `file` and `key` of an error about a task
Job = Callable[[Any, Callable[..., torch.Tensor]], Any]  # (task, maker of empty tensors) → result


class Worker:
    """One loader process. Results come in the order of the tasks."""

    def __init__(self, job: Job, others: list["Worker"]):
        """Start a process that calls `job` for each task. `others`: those started before, whose sockets it closes."""
        self._channel, channel = socket.socketpair()
        inherited = [self._channel, *(worker._channel for worker in others)]
        context = multiprocessing.get_context()
        sockets = inherited if context.get_start_method() == "fork" else []
        self._process = context.Process(target=_serve, args=(channel, job, sockets), daemon=True)
        with channel:
            self._process.start()

    def submit(self, task: Any, subject: Subject) -> None:
        """Send a task, without waiting for its result. A process that is gone is left for `result` to report."""
        try:
            send(self._channel, task)
        except ConnectionError:
            pass
        except OSError as error:
            raise _refusal(error, subject()) from None

    def result(self, subject: Subject) -> Any:
        """Wait for the next result; an exception of the task is returned, not raised.

        `InputError` when the process has died, or has no result after `STALL_LIMIT` seconds.
        """
        waited, slice_ = 0.0, min(SLICE, NOTE_AFTER)
        while True:
            ready = wait([self._channel, self._process.sentinel], slice_)
            if self._channel in ready:
                try:
                    return receive(self._channel)
                except (EOFError, ConnectionError):
                    raise self._death(subject()) from None
                except OSError as error:
                    raise _refusal(error, subject()) from None
            if ready:
                raise self._death(subject())
            waited += slice_  # slices, not the clock: the whole run may have been stopped for a while
            if waited >= STALL_LIMIT:
                raise self._stall(waited, subject())
            if NOTE_AFTER <= waited < NOTE_AFTER + slice_:
                parts, message = subject(), "waiting since %.0f s for loader process %d, %s, with a batch of %s from %s"
                LOG.warning(message, waited, self.pid, self._state(), parts["key"], parts["file"])
                LOG.warning("the run stops when it has waited for %.0f s", STALL_LIMIT)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid or 0

    def _state(self) -> str:
        """What the system says about the process."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as stream:
                letter = stream.read().rpartition(b")")[2].split()[0].decode()
        except OSError:  # not Linux
            return "its state is unknown"
        return STATES.get(letter, f"its state is {letter}")

    def _stall(self, waited: float, subject: dict[str, Any]) -> InputError:
        """The error for a process that gives no result."""
        return InputError(
            "a loader process gives no batch",
            **subject,
            found=f"process {self.pid} is silent for {waited:.0f} s; {self._state()}",
            expected=f"a batch in less than {STALL_LIMIT:.0f} s",
            remedy="look at the disk of the stores, or give --n_workers 0, which loads in the main process",
        )

    def _death(self, subject: dict[str, Any]) -> InputError:
        """The error for a process that is gone."""
        self._process.join(SLICE)
        code = self._process.exitcode
        ended_by = signal.Signals(-code) if code is not None and code < 0 else None
        cause = f"killed by {ended_by.name}" if ended_by else f"ended with status {code}"
        remedy = "look for who ended it (a scheduler, a user, a limit of memory), then start again with --resume"
        return InputError(
            "a loader process was killed" if ended_by else "a loader process has ended",
            **subject,
            found=f"process {self.pid} was {cause}" if ended_by else f"process {self.pid} {cause}",
            expected="loader processes that live as long as the run",
            remedy=REMEDIES.get(ended_by, remedy) if ended_by else remedy,
        )

    def end(self) -> None:
        """End the process at once: it only reads, so nothing is lost."""
        self._channel.close()
        self._process.kill()
        self._process.join()


class Workers:
    """Loader processes that share tasks in turn. Use it as a context manager, which ends them."""

    def __init__(self, job: Job, n: int):
        """Start `n` processes; `InputError` when the system refuses."""
        self._workers: list[Worker] = []
        atexit.register(self.close)  # before multiprocessing waits for its children
        try:
            for _ in range(n):
                self._workers.append(Worker(job, self._workers))
        except OSError as error:
            self.close()
            raise InputError(
                "a loader process cannot be started",
                key="n_workers",
                found=f"{error.strerror} at process {len(self._workers) + 1} of {n}",
                expected=f"{n} processes, and files for each",
                remedy="lower n_workers, or raise the limits of processes and open files (ulimit -u, ulimit -n)",
            ) from None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: Any) -> None:
        """End all processes."""
        self.close()

    def __getitem__(self, number: int) -> Worker:
        """The process that does task `number`."""
        return self._workers[number % len(self._workers)]

    def close(self) -> None:
        """End all processes; a second call does nothing."""
        atexit.unregister(self.close)
        while self._workers:
            self._workers.pop().end()


def _refusal(error: OSError, subject: dict[str, Any]) -> InputError:
    """The error for a task or result that cannot be passed between the processes."""
    return InputError(
        "a batch cannot be passed on by a loader process",
        **subject,
        found=error.strerror,
        expected="memory and a file descriptor for each batch",
        remedy=OS_REMEDIES.get(error.errno or 0) or "lower n_workers, or the batch size",
    )


def _serve(channel: socket.socket, job: Job, inherited: list[socket.socket]) -> None:
    """The life of a loader process: do tasks until the other side is gone.

    It ignores the signals that end a run: the training process decides when its loader processes end. A scheduler
    sends them to all processes at once, and the training process may still want to save.
    """
    for copy in inherited:
        copy.close()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard_limit, hard_limit))  # it counts shared memory too
    torch.set_num_threads(1)
    try:
        while True:
            task = receive(channel)
            try:
                _answer(channel, job, task)
            except (EOFError, ConnectionError):
                raise
            except OSError as error:  # there is no memory, or no descriptor, for a message
                send_error(channel, error)
    except (EOFError, ConnectionError):  # the training process has ended, or needs this one no longer
        os._exit(0)


def _answer(channel: socket.socket, job: Job, task: Any) -> None:
    """Do a task and send its result, or the error that it raised."""
    memory = SharedMemory()
    try:
        result = job(task, memory.empty)
    except Exception as error:
        result = as_input_error(error) or error
    send(channel, result, memory)
