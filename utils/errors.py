"""`InputError`, the error for all wrong input: it says what is wrong, where, and what to do."""

import sys
from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """An error that a user can cause and repair: a wrong option, file, store or checkpoint.

    The message fits one screen.
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
        """Build the message: `problem` is its title, a statement of what is wrong; each other part gets a line.

        `file` and `key` say where the error is, `found` and `expected` what was there and what should be there,
        `remedy` what to do. Parts that are None are left out.
        """
        parts = {"file": file, "key": key, "found": found, "expected": expected, "remedy": remedy}
        lines = [problem] + [f"  {name + ':':<10}{value}" for name, value in parts.items() if value is not None]
        super().__init__("\n".join(lines))


def exit_on_input_error(main: Callable[..., Any], *args: Any) -> None:
    """Run a script's `main`; on an `InputError`, print its message without a traceback and exit with status 2."""
    try:
        main(*args)
    except InputError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
