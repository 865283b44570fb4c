"""The hidden folder of a long job: what is done stays in it until the output is whole, and the next run goes on.

`.NAME.partial` beside the output NAME holds `files/`, which becomes the output, `job.json` with the options,
`done.jsonl` with the finished items, and `lock`, which a living run holds.
"""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from utils.errors import InputError
from utils.files import refuse_existing, write_json
from utils.locks import lock_file
from utils.os_errors import writing


@dataclass(kw_only=True)
class Job:
    """A job in progress. `folder`: where its files go. `done`: what was noted of each finished `.npz` file, by name."""

    folder: Path
    done: dict[str, Any]
    journal: TextIO

    def finish(self, name: str, note: Any) -> None:
        """Note that the file `name` is written. `note`: anything that JSON can hold."""
        self.done[name] = note
        self.journal.write(json.dumps([name, note]) + "\n")
        self.journal.flush()

    def remove_others(self, names: Collection[str]) -> None:
        """Remove the `.npz` files but those with these names: what an earlier run made of other items, or in part."""
        for path in self.folder.glob("*.npz"):
            if path.name not in names:
                path.unlink()


@contextlib.contextmanager
def job_folder(output: str | Path, options: dict[str, Any]) -> Iterator[Job]:
    """Open the job that writes the folder `output`: a new one, or the one that an earlier run with `options` left.

    When the block ends, the files become the output. After an error or a kill they stay for the next run. `options`:
    all that decides the result, as JSON; a run with others starts afresh. `InputError` when `output` exists and is not
    empty, or another living process writes it.
    """
    output = Path(output)
    hidden = output.with_name(f".{output.name}.partial")
    with writing(output), _lock(output, hidden):
        refuse_existing(output)  # another process may have finished it just now
        done = _earlier_work(hidden, options)
        try:
            with open(hidden / "done.jsonl", "a", encoding="utf-8") as journal:
                yield Job(folder=hidden / "files", done=done, journal=journal)
            os.sync()  # once here, instead of once for each of many small files
            os.rename(hidden / "files", output)
            done.clear()
        finally:
            if not done:  # nothing is worth keeping
                shutil.rmtree(hidden, ignore_errors=True)


def _lock(output: Path, hidden: Path) -> BinaryIO:
    """Make the folder `hidden` of a job and lock it; `InputError` if another living process works in it."""
    while True:
        refuse_existing(output)
        hidden.mkdir(parents=True, exist_ok=True)
        lock = lock_file(hidden / "lock")
        if lock is None:
            remedy = "wait for it, or stop it; what it has done is kept"
            raise InputError("another process is writing this output", file=hidden, remedy=remedy)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(hidden / "lock")):
                return lock
        lock.close()  # the other process has just finished, and has removed the folder


def _earlier_work(hidden: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The finished items of an earlier run with the same options; else the folder is emptied."""
    options = json.loads(json.dumps(options))
    with contextlib.suppress(OSError, ValueError):
        if json.loads((hidden / "job.json").read_text(encoding="utf-8")) == options:
            (hidden / "files").mkdir(exist_ok=True)
            items = _whole_lines(hidden / "done.jsonl")
            done = {item: note for item, note in items if zipfile.is_zipfile(hidden / "files" / item)}
            print(f"going on with the work of an earlier run in {hidden}: {len(done):,} are done")
            return done
        print(f"an earlier run with other options left its work in {hidden}: removed")
    for path in hidden.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (hidden / "files").mkdir()
    write_json(hidden / "job.json", options)
    return {}


def _whole_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The entries of `done.jsonl`. The last line may be cut, where the run was killed: it is ended and ignored."""
    if not path.exists():
        return
    with open(path, "rb+") as stream:
        content = stream.read()
        if content and not content.endswith(b"\n"):
            stream.write(b"\n")
    for line in content.split(b"\n"):
        with contextlib.suppress(ValueError):
            item, note = json.loads(line)
            yield item, note
