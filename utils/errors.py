"""One kind of error for everything that comes from outside: what is wrong, where, and what to do."""

import sys
from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """Something a user gave us cannot be used.

    The message fits one screen and names, where known, the file, the key inside it, what was found, what was
    expected and the remedy.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        key: object = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ):
        parts = {"file": file, "key": key, "found": found, "expected": expected, "remedy": remedy}
        lines = [problem] + [f"  {name + ':':<10}{value}" for name, value in parts.items() if value is not None]
        super().__init__("\n".join(lines))


def exit_on_input_error(main: Callable[..., Any], *args: Any) -> None:
    """Run a script's `main`; an `InputError` ends it with its message and status 2 instead of a traceback."""
    try:
        main(*args)
    except InputError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
