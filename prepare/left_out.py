"""Bad items of a long job: refused by default; with `--skip_bad` left out, counted and listed."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType

from utils.errors import InputError
from utils.files import atomic_write

MOST_NAME = 255  # bytes of a file name, in all usual file systems
OTHERWISE = f"  {'or:':<10}give --skip_bad, to leave out such items and list them"
HELP = "leave out bad items, count them and list them in OUTPUT.left_out.jsonl; default: the first one is an error"


class LeftOut:
    """What a command leaves out, with the reasons. `path`: the list, beside the output; a JSON object in each line."""

    def __init__(self, output: str | Path, skip_bad: bool):
        output = Path(output)
        self.path = output.with_name(f"{output.name}.left_out.jsonl")
        if (length := len(os.fsencode(self.path.name))) > MOST_NAME:
            raise InputError(
                "the name of the output is too long for a file system",
                file=output.parent,
                key="--output",
                found=f"{length - len('.left_out.jsonl')} bytes: {output.name[:40]}...",
                expected=f"at most {MOST_NAME - len('.left_out.jsonl')}, as files beside it have longer names",
                remedy="give the output a shorter name",
            )
        self.skip_bad = skip_bad
        self._items: list[tuple[str, str]] = []  # item and error message

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: object, error: InputError) -> None:
        """Note that `item` is bad. Without `--skip_bad` this raises `error`, and names the option."""
        if not self.skip_bad:  # an entry in another one has named the option already
            raise error if OTHERWISE in str(error) else InputError(f"{error}\n{OTHERWISE}") from None
        self._items.append((str(item), str(error)))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Let `bad_entry` add to this list for the length of the block; then report it."""
        token = _list.set(self)
        try:
            yield
        except InputError:
            if self._items:  # they are the reason, or a part of it
                self.report()
            raise
        finally:
            _list.reset(token)
        self.report()

    def report(self) -> None:
        """Write the list, and print how many items were left out, by reason. Without any, remove an older list."""
        if not self._items:
            self.path.unlink(missing_ok=True)
            return
        lines = [json.dumps({"item": item, "reason": reason}) for item, reason in self._items]
        atomic_write(self.path, ("\n".join(lines) + "\n").encode())
        counts = Counter(reason.partition("\n")[0] for _, reason in self._items)
        reasons = "; ".join(f"{count:,} × {title}" for title, count in counts.most_common())
        print(f"{len(self):,} bad items left out ({reasons}), listed in {self.path}")

    def first(self) -> str | None:
        """How many items are bad and what is wrong with the first one, for messages; None if none is."""
        if not self._items:
            return None
        item, reason = self._items[0]
        lines = [" ".join(line.split()) for line in reason.splitlines()]
        return f"{len(self):,} bad items; the first, {item}: {'; '.join(lines)}"


_list: ContextVar[LeftOut | None] = ContextVar("left_out", default=None)  # of the command that is running


class bad_entry:
    """Context of one entry of an annotation file: an `InputError` in it ends this entry only, with `--skip_bad`.

    A reader of many entries puts it into its loop. `item`: the place of the entry, for the list.
    """

    __slots__ = ("item",)

    def __init__(self, item: object):
        self.item = item

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        collector = _list.get()
        if collector is None or not isinstance(error, InputError):
            return False
        collector.add(self.item, error)
        return True


def first_bad() -> str | None:
    """How many items of the running command are bad so far, and what is wrong with the first one; None if none is."""
    collector = _list.get()
    return collector.first() if collector else None


def nothing_left(problem: str, file: object = None) -> InputError:
    """The error of a command that is left without an item. If all are bad, it says why the first one is."""
    first = first_bad()
    return InputError(problem, file=file, found=first, remedy="repair the items" if first else "check the files")
