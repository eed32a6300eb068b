"""Finds what nobody else should read in files: paths of the author's machine, tokens, keys."""

import mmap
import re
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Optional, Tuple

from espnet_rand.errors import UserError

# before and behind a path, so that it is no part of an address or a longer name. In files of binary numbers a letter
# before it may be its length, hence two
_BEFORE, _BEHIND = rb"(?<![\w.~-]{2})", rb"(?![\w-])"
_HOMES = rb"/(?:home|Users)/[\w.-]+|[A-Za-z]:\\Users\\[\w.-]+"
_TOKEN = rb"\bhf_[A-Za-z0-9]{20,}\b|-----BEGIN [A-Z ]*PRIVATE KEY"


class PrivateError(UserError):
    """A file holds what nobody else should read."""


def check(folder: Path, given: Iterable[Path], token: Optional[str]) -> None:
    """Look for private things in each file of a folder.

    Args:
        given: files and folders of the author's. The folders that they are in count, as do the home and the working one
        token: of the author, in use

    Raises:
        PrivateError: there is one; the message names the file, and a path, but no token
    """
    folders = [Path.home(), Path.cwd(), *(one.parent for path in given for one in (path.absolute(), path.resolve()))]
    own = {str(one) for path in folders for one in (path, path.resolve())} - {Path.cwd().anchor}
    of_paths = re.compile(
        _BEFORE + b"(?:" + b"|".join([*map(re.escape, map(str.encode, own)), _HOMES]) + b")" + _BEHIND
    )
    of_tokens = re.compile(_TOKEN + (b"|" + re.escape(token.encode()) if token else b""))
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            name = path.relative_to(folder).as_posix()
            if of_tokens.search(content):
                raise PrivateError(f"{name} holds a token of the hub, or a key. Fix: take it out of what you give")
            if found := of_paths.search(content):
                raise PrivateError(
                    f"{name} names {found.group().decode(errors='replace')}, a folder of your machine. "
                    "Fix: take it out of what you give, or make that anew with relative paths"
                )


def absolute_paths(value: Any, key: str = "") -> Iterator[Tuple[str, str]]:
    """The options that are absolute paths, with their names; tokens are none."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from absolute_paths(one, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and not key.endswith("token_list"):
        for one in value:
            yield from absolute_paths(one, key)
    elif isinstance(value, str) and re.match(r"/|~|[A-Za-z]:[\\/]", value):
        yield key, value


def without_origin(model: Path) -> None:
    """Take out of a model of sentencepiece the paths of the text that it was trained on, and its own. Others stay."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:  # protobuf is missing; `check` finds what is private
        return
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model.read_bytes())
    except Exception:  # it is something else
        return
    if not proto.pieces:
        return
    for name in ("input", "model_prefix"):
        proto.trainer_spec.ClearField(name)
    model.write_bytes(proto.SerializeToString())
