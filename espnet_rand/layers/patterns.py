"""Wildcards on module names. A wildcard that matches a module covers all that is below it."""

import difflib
from fnmatch import fnmatchcase
from typing import Iterable, List


def matches(pattern: str, names: Iterable[str]) -> bool:
    """Whether a wildcard matches one of a module's names, or the name of a module above it."""
    return pattern == "*" or any(fnmatchcase(above, pattern) for name in names for above in _above(name))


def near(pattern: str, names: Iterable[str]) -> str:
    """A hint for messages: which names, or names of modules above them, are like a pattern that matches none."""
    known = {above: None for name in names for above in _above(name)}
    found = difflib.get_close_matches(pattern.strip("*."), known, n=3, cutoff=0.3)
    return f"near: {', '.join(found)}" if found else "it has " + ", ".join(list(known)[:5])


def _above(name: str) -> List[str]:
    """A module's name and the names of the modules above it."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
