"""Takes packed files wherever ESPnet takes a model file to decode from."""

import copy
import inspect
import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from torch.nn.modules.module import _IncompatibleKeys

from espnet_rand.context import patching
from espnet_rand.errors import NotFiniteError
from espnet_rand.packing import PackedFileError, is_packed, load_into, read_packed, weights_on_meta
from espnet_rand.toolkit import launcher
from espnet_rand.toolkit.hooks import openai_whisper
from espnet_rand.toolkit.loading import PackedSource, building, current


def build_model_from_file(original: Callable, *args: Any, **kwargs: Any) -> Any:
    """Run `AbsTask.build_model_from_file(config_file, model_file, device)`, where the model file may be packed.

    Raises:
        PackedFileError: the file is damaged, or does not fit the model of the configuration
    """
    given = inspect.signature(original).bind(*args, **kwargs).arguments
    path = given.get("model_file")
    if path is None or not Path(path).is_file() or not is_packed(path):
        return original(*args, **kwargs)
    given["config_file"] = given.get("config_file") or Path(path).parent / "config.yaml"
    source = PackedSource(path, read_packed(path), given.get("device", "cpu"))
    # `build` gives the model its weights; what ESPnet loads into it afterwards is an empty checkpoint
    with building(packed=source), empty_checkpoint() as empty:
        return original(**{**given, "model_file": empty})


@contextmanager
def empty_checkpoint() -> Iterator[str]:
    """Make a checkpoint without weights: with it ESPnet builds a trained model, and leaves the loading to others."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as file, building(others_load=True):
        torch.save({}, file.name)
        yield file.name


def build(original: Callable, args: Any) -> torch.nn.Module:
    """Build a task's model with the weights of the packed file of `loading.current`."""
    source, given = current().packed, copy.deepcopy(vars(args))
    backend = "dequantize" if current().decoded else launcher.packed_backend()
    with building(packed=None, part=True):
        try:
            with without_weights(), openai_whisper.without_openai(source.content):
                model = original(args)
        except NotImplementedError as e:  # models that load, move or compute with weights while they are built
            logging.warning(f"espnet_rand: the model is built in float first, which takes its memory: {e}")
            vars(args).clear()
            vars(args).update(given)  # builders may change what they are given, as that of BEATs does
            model = original(args)
    try:
        load_into(model, source.content, backend, _place(source.device))
    except (PackedFileError, NotFiniteError) as e:
        raise type(e)(f"{source.path}: {e}") from None
    return model


@contextmanager
def without_weights() -> Iterator[None]:
    """Build models inside the block whose weights take no memory, for a packed file to fill.

    Models that load weights while they are built (Whisper) neither read nor keep them. Other threads go on as ever.
    """
    replacements = ((torch, "load", _load_on_meta), (torch.nn.Module, "load_state_dict", _load_nothing))
    with weights_on_meta(), patching(*replacements):
        yield


def _load_on_meta(original: Callable, *args: Any, **kwargs: Any) -> Any:
    """Run `torch.load` without reading numbers."""
    return original(*args, **{**kwargs, "map_location": "meta"})


def _load_nothing(original: Callable, *args: Any, **kwargs: Any) -> _IncompatibleKeys:
    """Stand in for `load_state_dict`."""
    return _IncompatibleKeys([], [])


def check_adapter(name: str) -> None:
    """Refuse adapters that are not part of a packed model's weights.

    Raises:
        PackedFileError: it is not ESPnet's `lora`
    """
    if name != "lora":
        raise PackedFileError(f"{name} adapters cannot be packed: only those of lora are part of the weights")


def _place(device: str) -> str:
    """The device to decode packed weights on."""
    return "cpu" if device == "mps" else device
