"""What a model is shipped to: one class and one line in `TARGETS` for each runtime."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple, Type

from espnet_rand.errors import NotInstalledError
from espnet_rand.packing import PackedModel, write
from espnet_rand.shipping.espnet_folder import write_espnet


@dataclass(frozen=True)
class Shipment:
    """What is written for a runtime.

    Attributes:
        packed: codes and scales
        model: the quantized ESPnet model, in evaluation mode
        trained: the options that it was trained with
        config: its config.yaml
        task: its task
    """

    packed: PackedModel
    model: Any
    trained: Any
    config: Path
    task: str


class Target:
    """A runtime.

    Attributes:
        preset: the quantizer that is taken if none is given
        packages: those that it needs beside this one
    """

    preset = "rand_m3_ste_g32_w4"
    packages: Tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Raises NotInstalledError: a package is missing."""
        if missing := [name for name in self.packages if importlib.util.find_spec(name) is None]:
            raise NotInstalledError(f"{missing[0]} is not installed. Fix: pip install 'espnet_rand[export]'")

    def check(self, shipment: Shipment) -> None:
        """Raises ExportError: the runtime cannot hold the model; before anything is calibrated."""

    def write(self, shipment: Shipment, folder: Path) -> None:
        """Write the model, and decode.py, into an empty folder."""
        raise NotImplementedError


class Espnet(Target):
    """The packed file, for ESPnet with this package."""

    def write(self, shipment: Shipment, folder: Path) -> None:
        packed = folder / "packed.safetensors"
        write(packed, shipment.packed)
        write_espnet(packed, shipment.config, shipment.task, folder)
        packed.unlink()


TARGETS: Dict[str, Type[Target]] = {"espnet": Espnet}
