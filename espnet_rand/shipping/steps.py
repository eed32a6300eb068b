"""Calibrate, pack, write for a runtime, and check there: without training."""

import argparse
import math
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import espnet2
import torch

import espnet_rand
from espnet_rand.atomic import replacing_directory, write_text
from espnet_rand.calibration import Calibration, calibrate, check_steps
from espnet_rand.config import QuantizerConfig
from espnet_rand.environment import EVAL_BITS
from espnet_rand.errors import UserError
from espnet_rand.packing import PackedModel, is_packed
from espnet_rand.reporting import following
from espnet_rand.shipping import example, recordings
from espnet_rand.shipping.espnet_folder import write_espnet
from espnet_rand.shipping.example import Decoded
from espnet_rand.shipping.output import check_output
from espnet_rand.shipping.recordings import Recordings
from espnet_rand.shipping.report import Report, agreement, figures, number_of_words
from espnet_rand.shipping.targets import TARGETS, Shipment, Target
from espnet_rand.toolkit import options
from espnet_rand.toolkit.commands import checkpoints, validation
from espnet_rand.toolkit.pretrained.sources import Pretrained, open_pretrained
from espnet_rand.toolkit.recognition.recognizer import trained_rate

# layers that are named in the report
_WORST = 5
# recordings of a calibration at a time
_BATCH = 8


class ShippingError(UserError):
    """The model cannot be shipped as asked."""


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        model: a checkpoint, an archive, a directory, a packed file or a tag
        target: one of TARGETS
        lists: wav.scp, and text where there are transcripts
        output: the folder; it must not be there, or be that of an earlier order
        task: ESPnet's
        train_config: None: the one that comes with the model
        quantizer: None: the target's
        num_calibration, num_check: recordings
        min_agreement: percent of words
        longest: see Shipment; of the targets onnx and sherpa_onnx
    """

    model: Path
    target: str
    lists: Sequence[Path]
    output: Path
    task: str = "asr"
    train_config: Optional[Path] = None
    quantizer: Optional[QuantizerConfig] = None
    num_calibration: int = 32
    num_check: int = 20
    min_agreement: float = 95.0
    longest: Optional[float] = None


class _Loaded(NamedTuple):
    """The model of an order.

    Attributes:
        model: quantized, unless it is packed
        packed: what its file holds, if that is packed
        calibrated: whether it is still to be calibrated
    """

    files: Pretrained
    config: Path
    model: Any
    trained: Any
    packed: Optional[PackedModel]
    calibrated: bool

    @property
    def reference(self) -> str:
        """What the shipped model is compared with."""
        return "packed model" if self.packed else "trained model" if self.calibrated else "float model"


def ship(order: Order) -> Report:
    """Write the folder of an order, with report.json, README.md and decode.py, and return the report.

    Raises:
        ShippingError, OutputError, ExportError, PretrainedError, DataError, AudioError: what is asked for cannot be
            done; before any work where that is known
        ExampleError: the runtime failed
    """
    if os.environ.get(EVAL_BITS):
        raise ShippingError("--eval_bits: ship takes none. Fix: pack_weights --eval_bits, and ship the packed file")
    target = TARGETS[order.target]()
    target.check_installed()
    if order.longest is not None and order.target not in ("onnx", "sherpa_onnx"):
        raise ShippingError(f"--longest: {order.target} has no tables of positions to cut. Fix: leave it out")
    check_output(order.output, (order.model, order.train_config, *order.lists))
    with (
        open_pretrained(order.model) as files,
        tempfile.TemporaryDirectory(prefix="espnet_rand.") as temporary,
        replacing_directory(order.output) as folder,
    ):
        loaded = _load(order, files, target)
        target.check(_shipment(order, loaded))
        heard = _recordings(order, loaded, Path(temporary))
        (before := Path(temporary, "before")).mkdir()
        write_espnet(files.model_file, loaded.config, order.task, before)
        reference = example.decode(before, heard.check, f"decoding, {loaded.reference}")
        done = [] if loaded.calibrated else _calibrate(order, loaded, heard, before, temporary)
        target.write(_shipment(order, loaded), folder)
        shipped = example.decode(folder, heard.check, f"decoding, {order.target}")
        report = _report(
            order, loaded, heard, {loaded.reference: (before, reference), order.target: (folder, shipped)}, done
        )
        report.save(folder)
    return report


def _load(order: Order, files: Pretrained, target: Target) -> _Loaded:
    """The model, quantized by the options of its own training, or by those of the order."""
    config = order.train_config or files.train_config
    if config is None:
        raise ShippingError(f"--train_config: there is no config.yaml beside {order.model}: give it")
    own = options.trained_with(config)
    packed = is_packed(files.model_file)
    if order.quantizer is not None and (own or packed):
        raise ShippingError(
            f"--quantizer: {order.model} is quantized already. Fix: leave it out, or give the float model"
        )
    given = argparse.Namespace(task=order.task, train_config=config, model_file=files.model_file)
    if packed:
        model, trained, content = checkpoints.load_packed(given)
        return _Loaded(files, config, model.eval(), trained, content, True)
    quantizer = None if own else order.quantizer or options.preset(target.preset)
    model, trained = checkpoints.load(given, quantizer)
    if own is None:
        check_steps(model)
    return _Loaded(files, config, model.eval(), trained, None, own is not None)


def _shipment(order: Order, loaded: _Loaded) -> Shipment:
    packed = loaded.packed or checkpoints.pack(loaded.model)
    return Shipment(packed, loaded.model, loaded.trained, loaded.config, order.task, order.longest)


def _recordings(order: Order, loaded: _Loaded, temporary: Path) -> Recordings:
    folder = temporary / "wav"
    folder.mkdir()
    rate = trained_rate(loaded.trained)
    longest = min(getattr(loaded.model.encoder, "pad_samples", math.inf), (order.longest or math.inf) * rate)
    wanted = 0 if loaded.calibrated else order.num_calibration
    return recordings.prepare(order.lists, rate, longest, wanted, order.num_check, folder)


def _calibrate(order: Order, loaded: _Loaded, heard: Recordings, before: Path, temporary: str) -> List[Calibration]:
    """Calibrate the model, in place, on recordings with their transcripts, or with what the float model says.

    Args:
        before: the float model's folder
    """
    texts = heard.texts
    if texts is None:
        texts = example.decode(before, heard.calibration, "decoding, labels").texts
    heard.leave_out_wordless(texts)
    scp, text = Path(temporary, "wav.scp"), Path(temporary, "text")
    write_text(scp, "".join(f"{key} {path}\n" for key, path in heard.calibration.items()))
    write_text(text, "".join(f"{key} {texts[key]}\n" for key in heard.calibration))
    given = [(str(scp), "speech", "sound"), (str(text), "text", "text")]
    args = argparse.Namespace(
        data_path_and_name_and_type=given, num_utterances=len(heard.calibration), batch_size=_BATCH
    )
    data = validation.Validation(args, checkpoints.find_task(order.task), loaded.model, loaded.trained)
    return calibrate(loaded.model, data.loss, lambda names: following([*names], "calibrating weights"))


def _report(
    order: Order,
    loaded: _Loaded,
    heard: Recordings,
    models: Mapping[str, Tuple[Path, Decoded]],
    done: Sequence[Calibration],
) -> Report:
    found = sorted((one for one in done if not one.reason), key=lambda one: -one.error_after)
    (_, reference), (_, shipped) = models.values()
    common = agreement(reference.texts, shipped.texts)
    worst = {one.name: one.error_after for one in found[:_WORST]}
    config = loaded.packed.info if loaded.packed else loaded.model._quantization.config.to_dict()
    report = Report(
        model=str(order.model),
        target=order.target,
        quantizer={name: config.get(name) for name in ("quantizer", "quantizer_conf")},
        reference=loaded.reference,
        agreement=common,
        words=number_of_words(reference.texts),
        min_agreement=order.min_agreement,
        figures={
            name: figures(folder, decoded, heard.seconds, heard.texts) for name, (folder, decoded) in models.items()
        },
        errors=worst,
        recordings={
            "calibration": [] if loaded.calibrated else [*heard.calibration],
            "check": [*heard.check],
            "seconds": heard.seconds,
            "left_out_too_long": heard.left_out,
        },
        versions={"espnet": espnet2.__version__, "espnet_rand": espnet_rand.__version__, "torch": torch.__version__},
        advice=[],
    )
    if report.agrees:
        return report
    if not report.words:
        told = ["Nothing was compared, as no model said a word. Fix: --data with speech that the model knows."]
    else:
        told = advice(order.model, order.target, order.task, config.get("quantizer_conf") or {}, worst)
    return replace(report, advice=told)


def advice(model: Any, target: str, task: str, config: Mapping[str, Any], layers: Iterable[str]) -> List[str]:
    """What to do where the agreement is poor, as far as a target holds it.

    Args:
        config: quantizer_conf of what was shipped
        layers: the weights that err most
    """
    told = []
    if config.get("bits") != 8:
        overrides = ", ".join(f'"{name.rpartition(".")[0]}": {{bits: 8}}' for name in layers)
        if overrides:
            told.append(f"More bits for the layers that err most: quantizer_conf: overrides: {{{overrides}}}.")
    if TARGETS[target].groups and config.get("granularity") != "group":
        told.append("Finer everywhere: --quantizer_conf granularity=group --quantizer_conf group_size=32.")
    elif config.get("bits") != 8:
        told.append("Finer everywhere: --quantizer_conf bits=8.")
    training = (
        f"Train with the float model as the teacher (docs/teacher.md), and ship that: espnet-rand -m "
        f"espnet2.bin.{task}_train --config CONFIG --init_param {model} --teacher {model} "
        f"--quantizer_config {TARGETS[target].preset}."
    )
    return [*told, training]
