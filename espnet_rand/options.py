"""Options: dataclass fields that are checked when the object is made. This module imports nothing big."""

import dataclasses
import math
from typing import Any, Callable, NamedTuple, Tuple

from espnet_rand.errors import UserError


class OptionError(UserError, ValueError):
    """An option that cannot be used. The message names the key, the value and what is allowed."""


class Check(NamedTuple):
    """Checks an option's value: a predicate, and the same in words."""

    holds: Callable[[Any], bool]
    allowed: str

    def __call__(self, name: str, value: Any) -> None:
        """Raise OptionError where `value` is not allowed for the option `name`."""
        if not self.holds(value):
            raise OptionError(f"{name}: {value!r} is not allowed, it must be {self.allowed}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer(low: int, high: float = math.inf) -> Check:
    """A check for an integer in [low, high]."""
    text = f"an integer from {low} to {high}" if high < math.inf else f"an integer of at least {low}"
    return Check(lambda v: _is_int(v) and low <= v <= high, text)


def number(low: float, high: float = math.inf) -> Check:
    """A check for a real number in [low, high]; infinity (YAML: .inf) is one only where `high` is infinite."""
    text = f"a number from {low} to {high}" if high < math.inf else f"a number of at least {low} (or .inf)"
    return Check(lambda v: (_is_int(v) or isinstance(v, float)) and low <= v <= high, text)


def one_of(*values: Any) -> Check:
    """A check for one of the listed values (of the same type, so that True is not 1)."""
    return Check(
        lambda v: any(type(v) is type(x) and v == x for x in values),
        "one of " + ", ".join(map(str, values)),
    )


#: The allowed numbers of bits, and the same in words.
BITS = range(2, 9)
BITS_RANGE = f"from {BITS[0]} to {BITS[-1]}"
a_precision = integer(BITS[0], BITS[-1])

boolean = Check(lambda v: isinstance(v, bool), "true or false")


def option(default: Any, check: Check) -> Any:
    """A dataclass field that `Options` checks."""
    return dataclasses.field(default=default, metadata={"check": check})


def plain(text: str) -> str:
    """A text in letters and digits alone, different for different texts: other characters become xNUMBER."""
    return "".join(c if c.isascii() and c.isalnum() else f"x{ord(c):x}" for c in text)


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of the frozen dataclasses whose fields are options.

    Raises:
        OptionError: (on construction) a value is not allowed
    """

    @property
    def idle(self) -> Tuple[str, ...]:
        """The names of the options that change nothing beside the values of the others."""
        return ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if "check" in field.metadata:
                field.metadata["check"](field.name, getattr(self, field.name))
