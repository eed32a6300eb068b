"""Files and directories that are whole or not there."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union


@contextmanager
def replacing(path: Union[str, Path]) -> Iterator[Path]:
    """A temporary name beside `path`, which gets that name when the block ends, and is removed when it fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Union[str, Path], text: str) -> None:
    """Make a file of `text`, in UTF-8, or put it in the place of one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing_directory(path: Union[str, Path]) -> Iterator[Path]:
    """As `replacing`, of a directory: a new one, empty, with the directories above it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)  # a killed run's
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
