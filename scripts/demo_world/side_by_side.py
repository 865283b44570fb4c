"""Training runs of the demo side by side: one per CPU core, each on one thread."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol, TypeVar


class Named(Protocol):
    """A run with a name."""

    @property
    def name(self) -> str:
        """The name of the run's folder and log."""
        ...


R = TypeVar("R", bound=Named)
S = TypeVar("S")


def side_by_side(runs: Sequence[R], work: Callable[[R], S], show: Callable[[S], str]) -> dict[R, S]:
    """What `work` returns for each run. A line is printed when one ends; after an error no further run starts."""
    started, results = time.monotonic(), {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {pool.submit(work, run): run for run in runs}
        try:
            for future in as_completed(futures):
                run = futures[future]
                results[run] = future.result()
                minutes = (time.monotonic() - started) / 60
                progress = f"{len(results)}/{len(runs)}"
                print(f"{progress} {run.name}: {show(results[run])} ({minutes:.1f} min)", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results
