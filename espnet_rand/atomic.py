"""Files and directories that are whole or not there; files that are locked, or told from others."""

import errno
import functools
import logging
import os
import shutil
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Mapping, Union

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# a fingerprint is of so many stretches of a file, of so many bytes
_STRETCHES, _STRETCH = 64, 4096


@contextmanager
def replacing(path: Union[str, Path]) -> Iterator[Path]:
    """A temporary name beside `path`, which gets that name when the block ends, and is removed when it fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as e:
        if e.errno is not None and str(e.filename) in ("None", str(temporary)):
            e.filename = str(path)  # what a user knows; that of a full disk has no name at all
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Union[str, Path], text: str) -> None:
    """Make a file of `text`, in UTF-8, or put it in the place of one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Union[str, Path], state: Mapping[str, Any]) -> None:
    """Make a file that torch loads, or put it in the place of one. (To a name of its own, torch hides a full disk.)"""
    import torch  # not above: recipes have no need of it

    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


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


def lock(file: IO) -> bool:
    """Lock an open file until it is closed or the process dies, however it dies.

    Where the file system has no locks, a warning is logged, and the file counts as locked.

    Returns:
        whether it is locked; False: something else, in this process or another, has the lock
    """
    directory = os.path.dirname(os.path.abspath(file.name))
    if fcntl is None:
        _warn(directory, "nor has the system")
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        _warn(directory, e.strerror)
    return True


@functools.cache  # once of each directory
def _warn(directory: str, reason: str) -> None:
    logging.warning(f"{directory}: its file system has no locks ({reason}): see that no second run writes to it")


def fingerprint(path: Union[str, Path]) -> Dict[str, Any]:
    """What tells whether a file is the same as in an earlier run: size, time, a checksum of stretches all over it.

    The checksum is for files that replace others of the same size and time. Of a long file it takes no time.

    Raises:
        OSError: it cannot be read
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        checksum = 0
        for i in range(_STRETCHES):
            file.seek(status.st_size * i // _STRETCHES)
            checksum = zlib.crc32(file.read(_STRETCH), checksum)
    return {"size": status.st_size, "modified": status.st_mtime, "crc32_of_stretches": checksum}
