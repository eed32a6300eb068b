"""Says what ESPnet is building just now, in this thread: a model to train, one to load and from which file, a part."""

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional

from espnet_rand.context import setting
from espnet_rand.packing import PackedModel


class PackedSource(NamedTuple):
    """A packed file, and the device that ESPnet wants its model on."""

    path: Any
    content: PackedModel
    device: str


@dataclass(frozen=True)
class Build:
    """The purpose of a call of a task's `build_model`.

    Attributes:
        part: a part of a model that is quantized, packed or imitated as a whole: it stays as ESPnet builds it
        to_load: a model that gets the weights of a file, to be decoded or packed; otherwise one that is trained
        model_file: the file with these weights; None: there is none, or others load them
        others_load: others load the weights: ESPnet itself loads an empty checkpoint
        packed: the packed file with these weights; None: the file is of another kind
        decoded: packed layers compute in float with their decoded weights, whatever `--packed_backend` says
    """

    part: bool = False
    to_load: bool = False
    model_file: Optional[Path] = None
    others_load: bool = False
    packed: Optional[PackedSource] = None
    decoded: bool = False


_TO_TRAIN = Build()
_build: ContextVar[Build] = ContextVar("build", default=_TO_TRAIN)


def current() -> Build:
    """The purpose of the model that ESPnet is building just now."""
    return _build.get()


@contextmanager
def building(**changes: Any) -> Iterator[None]:
    """Change fields of `current()` inside the block."""
    with setting(_build, replace(_build.get(), **changes)):
        yield
