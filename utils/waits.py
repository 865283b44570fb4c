"""A word on the screen when this process waits for other ranks for long, such as for one that was stopped."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

NOTE_AFTER = 30.0  # seconds of one wait after which it is said, once
LOOK_EVERY = 5.0  # seconds between two looks
SPEAKERS = 2  # the first ranks speak: when one of them is stopped, the other one does


class Waits:
    """What this process waits for. A thread looks at it every few seconds, so a wait costs a microsecond."""

    def __init__(self) -> None:
        self._wait: tuple[float, str] | None = None  # when the wait of the main thread began, and for what
        self._end = threading.Event()

    def start(self, rank: int, size: int, limit: float) -> None:
        """Start the thread, on the first ranks. `limit`: seconds after which a wait ends the run."""
        self._end = threading.Event()
        if size > 1 and rank < SPEAKERS:
            threading.Thread(target=self._look, args=(rank, size, limit, self._end), daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._end.set()

    @contextmanager
    def during(self, subject: str) -> Iterator[None]:
        """Mark what runs inside as a wait for `subject`. It is a decorator too."""
        self._wait = time.monotonic(), subject
        try:
            yield
        finally:
            self._wait = None

    def _look(self, rank: int, size: int, limit: float, end: threading.Event) -> None:
        noted_wait = None
        while not end.wait(LOOK_EVERY):
            wait = self._wait
            if wait is not None and wait is not noted_wait and time.monotonic() - wait[0] >= NOTE_AFTER:
                noted_wait = wait
                print(
                    f"[rank {rank}] waiting since {time.monotonic() - wait[0]:.0f} s for {wait[1]} of the other "
                    f"{size - 1} of {size} processes: one of them is busy, slow or stopped (state T in ps); "
                    f"the run stops after {limit:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )


WAITS = Waits()
