"""Blocks in which something holds for this computation alone, and not for other threads."""

import functools
import threading
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Callable, Dict, Iterator, Tuple


@contextmanager
def setting(variable: ContextVar, value: Any) -> Iterator[None]:
    """Let `variable` be `value` in a block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def last_outputs(*modules: Any) -> Iterator[Dict[Any, Any]]:
    """Collect in a block what modules return in this thread: the last output of each, by module."""
    outputs: Dict[Any, Any] = {}
    thread = threading.get_ident()

    def collect(module: Any, inputs: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            outputs[module] = output

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(collect).remove)
        yield outputs


@contextmanager
def patching(*replacements: Tuple[Any, str, Callable]) -> Iterator[None]:
    """Replace functions of classes and modules in a block: (owner, name, function).

    Each gets the original as its first argument. Other threads call the originals; those that enter such a block wait.
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
    """A function that calls `replacement(original, ...)` in this thread, and the original in all others."""
    thread = threading.get_ident()

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        return replacement(original, *args, **kwargs)

    return call
