"""Files for other runtimes that are published beside the packed file."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Sequence

from espnet_rand.errors import MissingFileError, UserError

_ROOM = "exported"
#: what `espnet-rand ship` says in a folder; it names files of the machine, and the card says the rest
_OF_SHIPMENTS = ("report.json", "README.md")


class ExportedError(UserError):
    """Files for other runtimes cannot be published as they are."""


@dataclass(frozen=True)
class Exported:
    """A folder or file for another runtime.

    Attributes:
        folder: its name in what is published
        runtime: of a shipment; else ""
        bytes: of its files
        agreement: what a shipment says of the check; else ""
    """

    folder: str
    runtime: str
    bytes: int
    agreement: str


def check(paths: Sequence[Path]) -> None:
    """Check what is to be copied, before any work.

    Raises:
        MissingFileError: it is not there
        ExportedError: two have the same name; there are hidden files, or links, which may lead anywhere
    """
    names = set()
    for path in paths:
        if not path.exists():
            raise MissingFileError(f"--exported: no such file or folder: {path}")
        name = path.resolve().name
        if name.casefold() in names or not name:
            raise ExportedError(f"--exported: two things are called {name}. Fix: rename one of them")
        names.add(name.casefold())
        for one in (path.resolve(), *path.rglob("*")):
            if one.is_symlink() or one.name.startswith("."):
                what = "a link" if one.is_symlink() else "hidden"
                raise ExportedError(f"--exported: {one} is {what}, and not published. Fix: take it out of {path}")


def copy(paths: Sequence[Path], folder: Path) -> List[Exported]:
    """Copy folders and files into exported/ of a folder."""
    made = []
    for path in map(Path.resolve, paths):
        new = folder / _ROOM / path.name
        new.parent.mkdir(exist_ok=True)
        shipment = _shipment(path)
        left_out = shutil.ignore_patterns(*_OF_SHIPMENTS) if shipment else None
        if path.is_dir():
            shutil.copytree(path, new, ignore=left_out)
        else:
            shutil.copy(path, new)
        files = [new] if new.is_file() else [file for file in new.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        made.append(Exported(f"{_ROOM}/{new.name}", str(shipment.get("target", "")), size, _agreement(shipment)))
    return made


def _shipment(path: Path) -> Mapping[str, Any]:
    """What report.json of a shipment says; nothing where there is none."""
    try:
        held = json.loads((path / "report.json").read_text(encoding="utf-8"))
        return held if {"target", "agreement", "words", "reference"} <= held.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _agreement(shipment: Mapping[str, Any]) -> str:
    try:
        return f"{shipment['agreement']:.1f}% of {shipment['words']} words are those of the {shipment['reference']}"
    except (KeyError, ValueError, TypeError):
        return ""
