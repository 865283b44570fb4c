"""A word on the screen when this process waits for other ranks for long, such as for one that was stopped."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

NOTE_AFTER = 10.0  # seconds of one wait after which it is said, once
LOOK_EVERY = 2.0  # seconds between two looks
SPEAKERS = 2  # the first ranks speak: when one of them is stopped, the other one does
MOST_NAMES = 8  # ranks that a line names


class Waits:
    """What this process waits for. A thread looks at it every few seconds, so a wait costs a microsecond.

    The thread also writes in a store how many waits this rank has begun. All ranks begin the same waits, so those that
    have begun fewer are the ones that the others wait for.
    """

    def __init__(self) -> None:
        self._wait: tuple[float, str] | None = None  # when the wait of the main thread began, and for what
        self._count = 0  # waits that the main thread has begun
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, rank: int, size: int, limit: float, connect: Callable[[], Any] | None = None) -> None:
        """Start the thread. `limit`: seconds after which a wait ends the run. `connect` opens the store; None: none."""
        self._end, self._count = threading.Event(), 0
        if size > 1 and (rank < SPEAKERS or connect is not None):
            arguments = (rank, size, limit, connect, self._end)
            self._thread = threading.Thread(target=self._look, args=arguments, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(2 * LOOK_EVERY)
            self._thread = None

    @contextmanager
    def during(self, subject: str) -> Iterator[None]:
        """Mark what runs inside as a wait for `subject`. It is a decorator too."""
        self._count += 1
        self._wait = time.monotonic(), subject
        try:
            yield
        finally:
            self._wait = None

    def _look(
        self, rank: int, size: int, limit: float, connect: Callable[[], Any] | None, end: threading.Event
    ) -> None:
        noted_wait, store, published = None, None, -1
        while not end.wait(LOOK_EVERY):
            wait, count = self._wait, self._count
            with suppress(Exception):  # the store ends with rank 0, whose end is said elsewhere
                if connect is not None:
                    connect_once, connect = connect, None
                    store = connect_once()
                if store is not None and published != count:
                    store.set(f"waits/{rank}", str(count))
                    published = count
            if rank >= SPEAKERS or wait is None or wait is noted_wait or time.monotonic() - wait[0] < NOTE_AFTER:
                continue
            noted_wait = wait
            late: list[int] = []
            with suppress(Exception):
                late = _late_ranks(store, size, count)
            print(
                f"[rank {rank}] waiting since {time.monotonic() - wait[0]:.0f} s for {wait[1]} of "
                f"{spell_ranks(late) if late else f'the other {size - 1}'} of {size} processes: busy, slow or stopped "
                f"(state T in ps); the run stops after {limit:.0f} s",
                file=sys.stderr,
                flush=True,
            )


def _late_ranks(store: Any, size: int, count: int) -> list[int]:
    """The ranks that have begun fewer than `count` waits, or have not written any."""
    names = [f"waits/{rank}" for rank in range(size)]
    return [rank for rank, name in enumerate(names) if not store.check([name]) or int(store.get(name)) < count]


def spell_ranks(ranks: list[int]) -> str:
    """Ranks in words: rank 3; ranks 1, 3; with many, the first ones and the number of the others."""
    names = ", ".join(map(str, ranks[:MOST_NAMES]))
    more = f" and {len(ranks) - MOST_NAMES} more" if len(ranks) > MOST_NAMES else ""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {names}{more}"


WAITS = Waits()
