"""The start of a run of several processes: each one waits until all are there, and says whom it waits for."""

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist

from utils.errors import InputError
from utils.launcher_table import HOROVODRUN
from utils.launchers import Place
from utils.waits import SPEAKERS, spell_ranks

NOTE_AFTER = 5.0  # seconds after which a rank says whom it waits for
NOTE_EVERY = 60.0  # seconds between two such lines
START_LIMIT = 600.0  # seconds after which it gives up
PORT_IN_USE = ("EADDRINUSE", "ddress already in use")


@dataclass
class _Join:
    """What the joining thread tells the main thread."""

    store: dist.Store | None = None  # at its end, where all ranks are there
    error: Exception | None = None  # at its end, otherwise
    missing: list[int] = field(default_factory=lambda: [0])  # without rank 0 nobody can say who else is missing


def meet(place: Place) -> dist.Store:
    """Wait until all ranks are there; returns the store through which they then connect.

    After `NOTE_AFTER` seconds a rank names those that are missing. `InputError` when somebody has not come after
    `START_LIMIT` seconds, when the meeting point is not known or its port is in use, and when two processes have one
    rank. It waits in a thread, so that Ctrl-C ends it.
    """
    check_meeting_point(place)
    join = _Join()
    thread = threading.Thread(target=_run, args=(place, join), daemon=True)
    thread.start()
    began, next_note = time.monotonic(), NOTE_AFTER
    while thread.is_alive():
        thread.join(min(1.0, NOTE_AFTER))
        seconds = time.monotonic() - began
        if thread.is_alive() and seconds >= next_note:
            next_note = seconds + NOTE_EVERY
            if place.rank < SPEAKERS or 0 in join.missing:
                _say(place, join.missing)
    if join.store is None:
        raise _failure(place, join)
    return join.store


def connect(place: Place, timeout: timedelta, is_server: bool = False) -> dist.Store:
    """A connection to the store at the meeting point, which rank 0 or torchrun holds (`is_server`: open it)."""
    store = dist.TCPStore(
        place.address,
        place.port,
        place.size,
        is_master=is_server,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=is_server,
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives a restart of its ranks
    return dist.PrefixStore(f"uniter/{place.size}/{attempt}", store)


def is_reachable(place: Place) -> bool:
    """Whether it is known, and not only guessed, where rank 0 runs: horovodrun may have been started elsewhere."""
    is_guess = place.sources.get("address") == HOROVODRUN.address
    return bool(place.address and place.port) and not is_guess


def check_meeting_point(place: Place) -> None:
    """`InputError` where no variable says the host or the port of rank 0."""
    missing = [name for name, value in (("MASTER_ADDR", place.address), ("MASTER_PORT", place.port)) if not value]
    if missing:
        raise InputError(
            "no variable says where the processes of the run meet",
            key=", ".join(missing) + " (environment variables)",
            found=str(place),
            expected="the host of rank 0, which all machines reach, and a free port there, the same for all ranks",
            remedy=place.remedy,
        )


def _run(place: Place, join: _Join) -> None:
    """The joining thread: open or reach the store, sign in, wait for the others."""
    try:
        limit = timedelta(seconds=START_LIMIT)
        by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = connect(place, limit, is_server=place.rank == 0 and not by_torchrun)
        names = [f"rank{rank}" for rank in range(place.size)]
        if store.add(names[place.rank], 1) > 1:
            raise RuntimeError(f"two processes have rank {place.rank}; is it the port of another run?")
        began, pause = time.monotonic(), 0.01
        while not store.check(names):
            if time.monotonic() - began > NOTE_AFTER / 2:
                join.missing = [rank for rank, name in enumerate(names) if not store.check([name])]
            if time.monotonic() - began > START_LIMIT:
                raise TimeoutError(f"{spell_ranks(join.missing)} did not come")
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)
        join.store = store
    except Exception as error:
        join.error = error


def _say(place: Place, missing: list[int]) -> None:
    """The line about the ranks that are missing."""
    waiting = f"[rank {place.rank}] waiting for {spell_ranks(missing)} of {place.size} processes"
    where = f"at {place.address}:{place.port}"
    print(f"{waiting} {where}; the run stops after {START_LIMIT:.0f} s", file=sys.stderr, flush=True)


def _failure(place: Place, join: _Join) -> InputError:
    """The error for a meeting that failed."""
    text = str(join.error).splitlines()[0][:200] if str(join.error) else type(join.error).__name__
    in_use = place.rank == 0 and any(sign in str(join.error) for sign in PORT_IN_USE)
    return InputError(
        "the port of the meeting point is in use" if in_use else "the processes of the run do not find each other",
        key=f"MASTER_ADDR, MASTER_PORT: {place.address}:{place.port}",
        found=f"rank {place.rank} of {place.size}: {text}",
        expected=f"{place.size} processes within {START_LIMIT:.0f} s, and a free port on the machine of rank 0",
        remedy="another run may have this port: give MASTER_PORT another number"
        if in_use
        else "start all ranks; let every machine reach the host of rank 0 (MASTER_ADDR, MASTER_PORT); on one machine: "
        "torchrun --standalone --nproc_per_node N SCRIPT …",
    )
