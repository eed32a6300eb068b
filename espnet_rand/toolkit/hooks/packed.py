"""Packed files wherever ESPnet takes a model file to decode from."""

import copy
import inspect
import logging
import tempfile
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional

import torch
from torch.nn.modules.module import _IncompatibleKeys

from espnet_rand.context import patching, setting
from espnet_rand.errors import NotFiniteError
from espnet_rand.packing import PackedFileError, PackedModel, is_packed, load_into, read_packed, weights_on_meta
from espnet_rand.toolkit import backend


class _Loading(NamedTuple):
    """A packed file that a task is building its model from."""

    path: Any
    packed: PackedModel
    device: str


_loading: ContextVar[Optional[_Loading]] = ContextVar("loading a packed file", default=None)

_left_to_others: ContextVar[bool] = ContextVar("left to others", default=False)


def build_model_from_file(original: Callable, *args: Any, **kwargs: Any) -> Any:
    """`AbsTask.build_model_from_file(config_file, model_file, device)`, where the model file may be packed.

    Raises:
        PackedFileError: the file is damaged, or does not fit the model of the configuration
    """
    given = inspect.signature(original).bind(*args, **kwargs).arguments
    path = given.get("model_file")
    if path is None or not Path(path).is_file() or not is_packed(path):
        return original(*args, **kwargs)
    given["config_file"] = given.get("config_file") or Path(path).parent / "config.yaml"
    loading = _Loading(path, read_packed(path), given.get("device", "cpu"))
    # `build` gives the model its weights; what ESPnet loads into it afterwards is an empty checkpoint
    with setting(_loading, loading), empty_checkpoint() as empty:
        return original(**{**given, "model_file": empty})


@contextmanager
def empty_checkpoint() -> Iterator[str]:
    """A checkpoint without weights: with it ESPnet builds a trained model, and leaves the loading to others."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as file, setting(_left_to_others, True):
        torch.save({}, file.name)
        yield file.name


def left_to_others() -> bool:
    """Whether others load the weights of the model that ESPnet builds."""
    return _left_to_others.get()


def building() -> bool:
    """Whether the model that is being built comes from a packed file."""
    return _loading.get() is not None


def build(original: Callable, args: Any) -> torch.nn.Module:
    """The model that a task builds, with the packed weights in it."""
    loading, given = _loading.get(), copy.deepcopy(vars(args))
    with setting(_loading, None):  # models built within are its parts
        try:
            with without_weights():
                model = original(args)
        except NotImplementedError as e:  # models that load, move or compute with weights while they are built
            logging.warning(f"espnet_rand: the model is built in float first, which takes its memory: {e}")
            vars(args).clear()
            vars(args).update(given)  # builders may change what they are given, as that of BEATs does
            model = original(args)
    try:
        load_into(model, loading.packed, backend.asked(), _place(loading.device))
    except (PackedFileError, NotFiniteError) as e:
        raise type(e)(f"{loading.path}: {e}") from None
    return model


@contextmanager
def without_weights() -> Iterator[None]:
    """Models built inside the block have weights without memory, for a packed file to fill.

    Models that load weights while they are built (Whisper) neither read nor keep them. Other threads go on as ever.
    """
    loading = ((torch, "load", _load_on_meta), (torch.nn.Module, "load_state_dict", _load_nothing))
    with weights_on_meta(), patching(*loading):
        yield


def _load_on_meta(original: Callable, *args: Any, **kwargs: Any) -> Any:
    return original(*args, **{**kwargs, "map_location": "meta"})


def _load_nothing(original: Callable, *args: Any, **kwargs: Any) -> _IncompatibleKeys:
    return _IncompatibleKeys([], [])


def check_adapter(name: str) -> None:
    """Refuse adapters that are not part of a packed model's weights.

    Raises:
        PackedFileError: it is not ESPnet's `lora`
    """
    if name != "lora":
        raise PackedFileError(f"{name} adapters cannot be packed: only those of lora are part of the weights")


def _place(device: str) -> str:
    return "cpu" if device == "mps" else device
