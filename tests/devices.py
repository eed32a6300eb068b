"""The devices that tests compute on: the CPU, and a GPU where there is one."""

import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Iterator

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

import espnet_rand

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
_PLUGIN = str(Path(espnet_rand.__file__).parent)


class _TestsOn(TorchFunctionMode):
    """Makes tensors on a device where no device is named, unless the plugin makes them: it has to name one."""

    def __init__(self, device: str):
        super().__init__()
        self._device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        named = func not in _device_constructors() or kwargs.get("device") is not None
        if named or sys._getframe(1).f_code.co_filename.startswith(_PLUGIN):
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        kwargs["device"] = self._device if generator is None else generator.device
        return func(*args, **kwargs).to(self._device)


@contextmanager
def computing_on(device: str, module: ModuleType) -> Iterator[None]:
    """Let the tests of a module compute on a device: with the module's own tensors, and those that they make there.

    On a GPU float32 is float32, not TF32, and results are the same each time.
    """
    if device == "cpu":
        yield
        return
    made = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
    vars(module).update({name: value.to(device) for name, value in made.items()})
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False), _TestsOn(device):
            yield
    finally:
        vars(module).update(made)


def generator(seed: int) -> torch.Generator:
    """A generator of random numbers on the device that tests compute on."""
    return torch.Generator(torch.empty(0).device).manual_seed(seed)
