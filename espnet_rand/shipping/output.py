"""The folder that is written: an earlier one is replaced, and nothing of the user's with it."""

import json
from pathlib import Path
from typing import Iterable, List, Optional

from espnet_rand.errors import UserError, few


class OutputError(UserError):
    """The folder cannot be replaced."""


def check_output(output: Path, given: Iterable[Optional[Path]]) -> None:
    """Check that a folder may be replaced.

    Args:
        output: a folder that is not there, is empty, or whose report.json names all its files
        given: what the user named, and must keep

    Raises:
        OutputError: replacing it would remove what is the user's
    """
    output = output.resolve()
    for one in filter(None, (*given, Path.cwd())):
        if output in (path := one.resolve(), *path.parents):
            raise OutputError(f"--output: {output} is replaced, and holds {path}. Fix: choose another folder")
    if output.exists() and (not output.is_dir() or (others := other_files(output))):
        named = few(others, 2) if output.is_dir() else output.name
        raise OutputError(f"--output: {output} holds other files: {named}. Fix: choose a folder that is not there yet")


def files_of(folder: Path) -> List[str]:
    """The names of the files below a folder, with those of its folders."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_file(path))


def other_files(folder: Path) -> List[str]:
    """Names of the files in a folder that an earlier run, if any, did not write."""
    try:
        written = {*json.loads((folder / "report.json").read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, LookupError, TypeError):  # somebody else's
        written = set()
    return sorted({*files_of(folder)} - written)


def _is_file(path: Path) -> bool:
    return path.is_symlink() or path.is_file()
