"""Files and directories that are whole or not there; locks; fingerprints, which tell files apart."""

import errno
import functools
import logging
import os
import shutil
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Mapping, Union

from espnet_rand.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# the number of stretches of a file that a fingerprint is made of, and the bytes of each
_STRETCHES, _STRETCH = 64, 4096


class DirectoryError(UserError):
    """A directory cannot be replaced."""


@contextmanager
def replacing(path: Union[str, Path]) -> Iterator[Path]:
    """Give a block a temporary name beside `path`. The file gets its name at the end; it is removed on a failure."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as e:
        if e.errno is not None and str(e.filename) in ("None", str(temporary)):
            e.filename = str(path)  # the name that a user knows; the error of a full disk has none at all
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Union[str, Path], text: str) -> None:
    """Write a text, in UTF-8, to a file, in place of what was there."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Union[str, Path], state: Mapping[str, Any]) -> None:
    """Write tensors to a file that torch loads, in place of what was there. (Given a name, torch hides a full disk.)"""
    import torch  # not above: recipes do without it

    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


@contextmanager
def replacing_directory(path: Union[str, Path]) -> Iterator[Path]:
    """Give a block a new, empty directory, which then replaces `path`; see `replacing`. A link stays one.

    Raises:
        DirectoryError: another run is at work there, or there is no directory that can be replaced
    """
    path = Path(path).resolve()
    if os.path.ismount(path) or (path.exists() and not path.is_dir()):
        raise DirectoryError(f"{path} is a file, or a mounted disk. Fix: name a folder that is not there yet")
    work = path.with_name(f".{path.name}.unfinished")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        if not lock(file):
            raise DirectoryError(f"{path}: another run is at work there. Fix: wait for it, or name another folder")
        for left in work.iterdir():  # by a killed run
            shutil.rmtree(left, ignore_errors=True)
        try:
            room = Path(tempfile.mkdtemp(dir=work))
            new, old = room / "new", room / "old"
            new.mkdir()
            yield new
            if path.exists():
                path.rename(old)
            try:
                new.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


def lock(file: IO) -> bool:
    """Lock an open file until it is closed or the process dies, however it dies.

    Where the file system has no locks, a warning is logged, and the file counts as locked.

    Returns:
        whether the file is locked now; False: something else, in this process or another, has the lock
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


@functools.cache  # once for each directory
def _warn(directory: str, reason: str) -> None:
    logging.warning(f"{directory}: its file system has no locks ({reason}): see that no second run writes to it")


def fingerprint(path: Union[str, Path]) -> Dict[str, Any]:
    """The size, time, and a checksum of stretches of a file, which tell whether it is the same as in an earlier run.

    The checksum is for files that replace others of the same size and time. It takes no time for a long file.

    Raises:
        OSError: the file cannot be read
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        checksum = 0
        for i in range(_STRETCHES):
            file.seek(status.st_size * i // _STRETCHES)
            checksum = zlib.crc32(file.read(_STRETCH), checksum)
    return {"size": status.st_size, "modified": status.st_mtime, "crc32_of_stretches": checksum}
