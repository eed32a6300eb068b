"""Values that hold in a block, for this computation alone: not for other threads."""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Iterator


@contextmanager
def setting(variable: ContextVar, value: Any) -> Iterator[None]:
    """`variable` is `value` inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
