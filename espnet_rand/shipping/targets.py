"""What a model is shipped to: one class and one line in `TARGETS` for each runtime."""

import argparse
import importlib.util
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple, Type

from espnet_rand.errors import NotInstalledError
from espnet_rand.export import ctranslate2, ggml
from espnet_rand.export.examples import write_example
from espnet_rand.packing import PackedModel, write_packed
from espnet_rand.shipping.espnet_folder import write_espnet
from espnet_rand.toolkit.commands import checkpoints


@dataclass(frozen=True)
class Shipment:
    """What is written for a runtime.

    Attributes:
        packed: codes and scales
        model: the quantized ESPnet model, in evaluation mode
        trained: the options that it was trained with
        config: its config.yaml
        task: its task
        longest: seconds of the longest recording; None: what the model's tables of positions have
    """

    packed: PackedModel
    model: Any
    trained: Any
    config: Path
    task: str
    longest: Optional[float] = None

    @property
    def language(self) -> str:
        """What a multilingual Whisper model hears, as the training's preprocessor has it."""
        return (getattr(self.trained, "preprocessor_conf", None) or {}).get("whisper_language") or "en"


class Target:
    """A runtime.

    Attributes:
        preset: the quantizer that is taken if none is given
        packages: those that it needs beside this one
        groups: whether it holds a scale for each group of a row
    """

    preset = "rand_m3_ste_g32_w4"
    packages: Tuple[str, ...] = ()
    groups = True

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
        write_packed(packed, shipment.packed)
        write_espnet(packed, shipment.config, shipment.task, folder)
        packed.unlink()


class WhisperCpp(Target):
    """whisper.cpp, for Whisper models."""

    preset = "rand_ggml_w4"
    packages = ("pywhispercpp", "whisper")

    def check(self, shipment: Shipment) -> None:
        ggml.describe(shipment.packed)

    def write(self, shipment: Shipment, folder: Path) -> None:
        ggml.export(shipment.packed, folder / "model.bin")
        write_example("whisper_cpp", folder, LANGUAGE=shipment.language)


class CTranslate2(Target):
    """CTranslate2, for Whisper models, by faster-whisper."""

    preset = "rand_ctranslate2_w8"
    packages = ("ctranslate2", "faster_whisper", "tokenizers", "whisper")
    groups = False

    def check(self, shipment: Shipment) -> None:
        ctranslate2.describe(shipment.packed)

    def write(self, shipment: Shipment, folder: Path) -> None:
        ctranslate2.export(shipment.packed, folder / "model")
        write_example("ctranslate2", folder, LANGUAGE=shipment.language)


class Onnx(Target):
    """ONNX Runtime, for models with CTC."""

    packages = ("onnx", "onnxscript", "onnxruntime")

    def check(self, shipment: Shipment) -> None:
        from espnet_rand.toolkit.exporting import models  # here, as it imports onnx

        models.check(shipment.model)
        with _loaded(shipment) as (model, trained, _):
            models.symbols(
                model, shipment.packed, models.graphs(model, models.measure(model, trained, shipment.longest)), False
            )

    def write(self, shipment: Shipment, folder: Path) -> None:
        from espnet_rand.toolkit.exporting import models

        with _loaded(shipment) as (model, trained, packed):
            times, about = models.measure(model, trained, shipment.longest), models.describe(model, packed)
            (folder / "model").mkdir()
            models.export(model, shipment.packed, folder / "model", times, about, exact=False)
        write_example("onnx", folder)


class SherpaOnnx(Target):
    """sherpa-onnx, for Whisper models, and models with CTC and frontend kaldi_fbank."""

    packages = ("onnx", "onnxscript", "sherpa_onnx")

    def check(self, shipment: Shipment) -> None:
        from espnet_rand.toolkit.exporting import models, sherpa, sherpa_whisper

        if sherpa_whisper.is_whisper(shipment.packed):
            sherpa_whisper.check(shipment.packed)
            return
        sherpa.check(shipment.model, shipment.trained)
        with _loaded(shipment) as (model, trained, _):
            models.measure(model, trained, shipment.longest)
            sherpa.check_files(model, shipment.packed, trained.token_type, sherpa.chunks())

    def write(self, shipment: Shipment, folder: Path) -> None:
        from espnet_rand.toolkit.exporting import models, sherpa, sherpa_whisper

        if sherpa_whisper.is_whisper(shipment.packed):
            loader = sherpa_whisper.loader(shipment.language)
            sherpa_whisper.export(shipment.packed, folder / "model")
        else:
            with _loaded(shipment) as (model, trained, packed):
                times, about = models.measure(model, trained, shipment.longest), models.describe(model, packed)
                loader, chunks = sherpa.loader(model, times), sherpa.chunks()
                sherpa.export(model, shipment.packed, folder / "model", times, about, trained.token_type, chunks)
        write_example("sherpa_onnx", folder, LOADER=loader.name, OPTIONS=loader.options)


@contextmanager
def _loaded(shipment: Shipment) -> Iterator[Tuple[Any, Any, Path]]:
    """The model with its codes loaded, the options that it was trained with, and the packed file."""
    with tempfile.TemporaryDirectory(prefix="espnet_rand.") as temporary:
        packed = Path(temporary, "packed.safetensors")
        write_packed(packed, shipment.packed)
        given = argparse.Namespace(task=shipment.task, train_config=shipment.config, model_file=packed)
        model, trained, _ = checkpoints.load_packed(given)
        yield model, trained, packed


TARGETS: Dict[str, Type[Target]] = {
    "espnet": Espnet,
    "whisper_cpp": WhisperCpp,
    "ctranslate2": CTranslate2,
    "onnx": Onnx,
    "sherpa_onnx": SherpaOnnx,
}
