"""`InputError`, the error for all wrong input: it says what is wrong, where, and what to do."""

import io
import os
import sys
import traceback
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


def as_input_error(error: BaseException) -> InputError | None:
    """What the operating system says anywhere else in a script, as an `InputError`; None for other exceptions."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, MemoryError):
        return InputError(
            "out of memory", found=str(error) or None, remedy="use smaller batches, fewer n_workers or files"
        )
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        frames = traceback.extract_tb(error.__traceback__) or [None]
        place = frames[-1] and f"{frames[-1].filename}, line {frames[-1].lineno}"
        return InputError("the operating system refused", file=error.filename, key=place, found=error.strerror)
    return None


def _flush() -> None:
    """Write the rest of standard output, where there is one."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Send the rest of standard output nowhere: Python would try to write it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_in_every_locale() -> None:
    """Let the screen show letters that the locale cannot write as their codes, as those of errors are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def exit_on_input_error(main: Callable[..., Any], *args: Any) -> None:
    """Run a script's `main`; on an `InputError`, print its message without a traceback and exit with status 2.

    Standard output that cannot be written is such an error too.
    """
    print_in_every_locale()
    try:
        main(*args)
        _flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        _drop_output()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = as_input_error(error)
        if message is None:
            raise
        nameless = isinstance(error, OSError) and error.filename is None
        try:
            if nameless:  # is it standard output that fails? Without a buffer, only writing again can tell
                print()
            _flush()
        except OSError as output_error:
            _drop_output()
            if nameless:
                message = InputError(
                    "standard output cannot be written",
                    found=output_error.strerror,
                    remedy="free some disk space, or send the output to another file",
                )
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.exit(2)
