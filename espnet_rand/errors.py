"""Errors that a user can fix, and how programs say them."""

import argparse
import os
import sys
from types import TracebackType
from typing import Any, Callable, NoReturn, Optional, Sequence, Type


class UserError(Exception):
    """Base of all errors that a user can fix. The message is one line that names the thing and the fix.

    Programs of `espnet_rand.bin`, and all that `espnet-rand` starts, end with that line, without a traceback.
    """


class NotInstalledError(UserError, ImportError):
    """A package is missing."""


class MissingFileError(UserError, FileNotFoundError):
    """A file is not there."""


class QuantizationError(UserError, RuntimeError):
    """The model cannot be quantized, or used, as asked."""


class NotFiniteError(UserError, ValueError):
    """Numbers of a model are NaN or infinite; the message names them."""


def few(names: Sequence[str], shown: int) -> str:
    """The first of some names, and how many more there are, for messages."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def one_line(error: BaseException) -> str:
    """The class of another program's error, and the first line of its message, or two where the first is a heading."""
    first, *others = f"{type(error).__name__}: {str(error).strip()}".splitlines()
    return f"{first} {others[0].strip().rstrip('.')}" if others and first.endswith(":") else first


def no_espnet() -> NotInstalledError:
    """The error that ESPnet is missing."""
    return NotInstalledError(
        f"ESPnet is not installed for {sys.executable}. Fix: pip install espnet, or use the Python that has it"
    )


def refuse_options(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Exit as `parser.error` does, without the usage, which for ESPnet's parsers is longer than a screen."""
    parser.exit(2, f"{parser.prog}: error: {message} (--help lists the options)\n")


def say(
    program: Optional[str],
    original: Callable[..., Any],
    kind: Type[BaseException],
    error: BaseException,
    trace: Optional[TracebackType],
) -> None:
    """Say an error as `sys.excepthook` of a program: one line, without a traceback, where a user can fix it.

    In programs of ESPnet a file that is not there counts, too.

    Args:
        program: what the lines begin with; None: the name of the program's file
        original: the excepthook for all other errors
    """
    if isinstance(error, UserError):
        said = str(error)
        if said.startswith("Caught "):  # by a worker of torch, whose traceback comes first
            said = said.splitlines()[-1].partition(": ")[2]
    elif _of_espnet() and (missing := _missing_file(error)):
        said = f"{missing}. Fix: see that it is there; paths are relative to {os.getcwd()}, where this was started"
    else:
        return original(kind, error, trace)
    print(f"{program or os.path.basename(sys.argv[0]).removesuffix('.py')}: error: {said}", file=sys.stderr)


def _of_espnet() -> bool:
    """Whether this program is one of ESPnet's."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name.startswith(("espnet2.", "espnet3."))


def _missing_file(error: BaseException) -> str:
    """The line in which an error, or a worker's, says that a file is missing; empty: it says something else."""
    last = (str(error).splitlines() or [""])[-1].removeprefix("FileNotFoundError: ")
    return last if isinstance(error, OSError) and "No such file" in last else ""
