"""What holds in a block, for this computation alone: not for other threads."""

import functools
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Callable, Iterator, Tuple


@contextmanager
def setting(variable: ContextVar, value: Any) -> Iterator[None]:
    """`variable` is `value` inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def patching(*replacements: Tuple[Any, str, Callable]) -> Iterator[None]:
    """Functions of classes and modules are others inside the block: (owner, name, function).

    Each is called with the original first. Other threads call the originals; those that enter such a block wait.
    """
    with _patching:
        originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
        try:
            for (owner, name, replacement), (_, _, original) in zip(replacements, originals):
                setattr(owner, name, _in_this_thread(original, replacement))
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)


_patching = threading.RLock()


def _in_this_thread(original: Callable, replacement: Callable) -> Callable:
    """`replacement(original, ...)` in this thread, the original in all others."""
    thread = threading.get_ident()

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        return replacement(original, *args, **kwargs)

    return call
