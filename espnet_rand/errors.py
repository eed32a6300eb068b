"""What a user can mend."""

from typing import Sequence


class UserError(Exception):
    """Base of all errors that a user can mend. The message is one line that names the thing and the mend.

    Programs of `espnet_rand.bin`, and all that `espnet-rand` starts, end with that line, without a traceback.
    """


class QuantizationError(UserError, RuntimeError):
    """The model cannot be quantized, or used, as asked."""


class NotFiniteError(UserError, ValueError):
    """Numbers of a model are NaN or infinite; the message names them."""


def few(names: Sequence[str], shown: int) -> str:
    """The first of some names, and how many more there are: for messages."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def one_line(error: BaseException) -> str:
    """An error's class, and the first line of its message, or two where the first is a heading: of others' errors."""
    first, *others = f"{type(error).__name__}: {str(error).strip()}".splitlines()
    return f"{first} {others[0].strip().rstrip('.')}" if others and first.endswith(":") else first
