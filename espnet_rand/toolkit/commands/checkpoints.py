"""Builds models of ESPnet checkpoints for the commands of espnet_rand.bin."""

import argparse
import importlib
import logging
import pkgutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple, Type

import espnet2
import espnet2.tasks
from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder
from espnet2.asr.encoder.whisper_encoder import OpenAIWhisperEncoder
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.abs_espnet_model import AbsESPnetModel

import espnet_rand
from espnet_rand.config import QuantizerConfig
from espnet_rand.errors import QuantizationError
from espnet_rand.layers import EvalBits, quantize, quantized_layers, set_eval_bits
from espnet_rand.packing import PackedModel, is_packed, pack_model, read_packed
from espnet_rand.toolkit import eval_bits, options
from espnet_rand.toolkit.context import checking_task
from espnet_rand.toolkit.hooks import init_param, partial
from espnet_rand.toolkit.hooks.packed import check_adapter, empty_checkpoint
from espnet_rand.toolkit.loading import building
from espnet_rand.toolkit.pretrained.fitting import Fit, PretrainedError, fit
from espnet_rand.toolkit.pretrained.sources import Pretrained, open_pretrained, read_weights


def task_names() -> list:
    """The names of ESPnet's tasks: asr, asr_transducer, lm, mt, ..."""
    return sorted(m.name for m in pkgutil.iter_modules(espnet2.tasks.__path__) if m.name != "abs_task")


def find_task(name: str) -> Type[AbsTask]:
    """Find the class of a task by its name."""
    module = importlib.import_module(f"espnet2.tasks.{name}")
    return next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, AbsTask) and kind.__module__ == module.__name__
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--task`, `--train_config` and `--model_file` to a command's parser."""
    parser.add_argument("--task", default="asr", choices=task_names(), metavar="TASK", help="asr, lm, mt, ...")
    parser.add_argument(
        "--train_config",
        type=Path,
        help="config.yaml of the training; default: the archive's own, or the one beside the model file",
    )
    parser.add_argument(
        "--model_file",
        type=Path,
        help="e.g. valid.acc.ave.pth, an archive or directory of the model zoo or a tag of it, or a packed file; "
        "default, but for pack_weights: the weights that the model is built with",
    )


def add_packed_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--task`, `--train_config` and a packed `--model_file` to the parser of a command that exports."""
    parser.add_argument(
        "--task", default="asr", choices=task_names(), metavar="TASK", help="asr (default), asr_transducer, ..."
    )
    parser.add_argument(
        "--train_config", type=Path, help="config.yaml of the training; default: the one beside the packed file"
    )
    parser.add_argument("--model_file", type=Path, required=True, help="the packed file")


def add_packing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--eval_bits` and `--output` to the parser of a command that packs."""
    eval_bits.add_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="the packed file, e.g. valid.acc.ave.w4.safetensors")


def load(
    args: argparse.Namespace, quantizer: Optional[QuantizerConfig] = None
) -> Tuple[AbsESPnetModel, argparse.Namespace]:
    """Load the model of `--task`, `--train_config` and `--model_file`, quantized if the configuration says so.

    Args:
        args: the options of `add_arguments`
        quantizer: quantizes the model, before it gets its weights, so that learned scales among them are taken

    Returns:
        the model, and the options that it was trained with

    Raises:
        OptionError: the configuration is of another task
        PretrainedError: there is no such model, or it does not fit the configuration
        QuantizationError: `quantizer` is given, and the model has one of its own
    """
    if args.train_config is not None and not args.train_config.is_file():
        raise PretrainedError(f"--train_config: no such file: {args.train_config}")
    if args.model_file is None and args.train_config is None:
        raise PretrainedError("--model_file and --train_config: give at least one")
    espnet_rand.register()
    if args.model_file is None:
        logging.warning(
            "espnet_rand: --model_file is not given: the weights are those that the model is built with, "
            "random ones unless it loads its own, as Whisper does"
        )
        return _build(args.task, args.train_config, quantizer)
    with open_pretrained(args.model_file, language_model=args.task == "lm") as files, empty_checkpoint() as empty:
        config = args.train_config or files.train_config
        if config is None:
            raise PretrainedError(f"--train_config: there is no config.yaml beside {args.model_file}: give it")
        return _load_from(
            files, args.model_file, config, lambda: _build(args.task, config, quantizer, empty), quantizer
        )


def load_packed(args: argparse.Namespace) -> Tuple[AbsESPnetModel, argparse.Namespace, PackedModel]:
    """The model of `--task`, `--train_config` and a packed `--model_file`, which computes with its decoded weights.

    Returns:
        the model, the options that it was trained with, and what the file holds

    Raises:
        OptionError: the configuration is of another task
        PretrainedError: the file is not a packed one, or is not given, or there is no configuration
        PackedFileError: it is damaged, or does not fit the configuration
    """
    packed = read_model_file(args)
    config = args.train_config or args.model_file.parent / "config.yaml"
    if not config.is_file():
        raise PretrainedError(f"--train_config: no such file: {config}. Fix: give config.yaml of the training")
    espnet_rand.register()
    with checking_task(args.task, config), building(decoded=True):
        model, trained = find_task(args.task).build_model_from_file(config, args.model_file)
    return model, trained, packed


def read_model_file(args: argparse.Namespace) -> PackedModel:
    """What a packed `--model_file` holds.

    Raises:
        PretrainedError: the file is not a packed one, or is not given
        PackedFileError: it is damaged
    """
    if args.model_file is None or not args.model_file.is_file():
        raise PretrainedError(f"--model_file: no such file: {args.model_file}. Fix: give a packed one")
    if not is_packed(args.model_file):
        raise PretrainedError(
            f"{args.model_file} is not packed. Fix: python -m espnet_rand.bin.pack_weights, or quantize_weights"
        )
    return read_packed(args.model_file)


def _load_from(
    files: Pretrained,
    name: Path,
    config: Path,
    build: Callable[[], Tuple[AbsESPnetModel, argparse.Namespace]],
    quantizer: Optional[QuantizerConfig],
) -> Tuple[AbsESPnetModel, argparse.Namespace]:
    """Build a model, and load the weights of `files` into it.

    Args:
        name, config: what messages call the model file and the configuration
        build: returns a new model, and the options of its training
    """
    packed, state = is_packed(files.model_file), read_weights(files.model_file)
    if packed:
        logging.warning(f"espnet_rand: {files.model_file} is packed: its decoded weights are rounded once more")

    def filled() -> Tuple[AbsESPnetModel, argparse.Namespace, Fit]:
        model, trained = build()
        some = partial.is_partial(trained) and not packed
        merged = getattr(model, "_adapter_keys", set()) if packed else set()
        kinds = init_param.scale_kinds(files.train_config or config, model=model)
        with partial.completing(model, trained, state) if some else nullcontext():
            fitted = fit(model, state, lambda key: some or key in merged, kinds)
        return model, trained, fitted

    model, trained, fitted = filled()
    if partial.is_partial(trained) and not packed:
        partial.check_base(model, lambda: filled()[0], trained)
    print(f"{name}: {fitted.reused}")
    misfits = [fitted.misfits()]
    if quantizer is None:  # the configuration's own: its scales must be there
        misfits.append(fitted.scales.others)
        if fitted.scales.missing and not packed:
            few = f"{len(fitted.scales.missing)} weights ({fitted.scales.missing[0]} ...)"
            misfits.append(f"it lacks the learned scales of {few}; float weights are for quantize_weights")
    if any(misfits):
        raise PretrainedError(f"{name} does not fit the model of {config}: {'; '.join(filter(None, misfits))}")
    return model, trained


def _build(
    task: str, config: Path, quantizer: Optional[QuantizerConfig], model_file: Optional[str] = None
) -> Tuple[AbsESPnetModel, argparse.Namespace]:
    """Build a model, and quantize it if a quantizer is given; return it, and the options of its training."""
    with checking_task(task, config):
        model, trained = find_task(task).build_model_from_file(config, model_file)
    if quantizer is not None:
        if quantized_layers(model):
            raise QuantizationError(
                "the configuration has a quantizer of its own, which the model was trained with: "
                "use pack_weights (allocate_bits: leave --quantizer out), or give a configuration without "
                "quantizer, quantizer_conf, teacher and teacher_conf"
            )
        quantize(model, quantizer)
    return model, trained


def load_quantized(args: argparse.Namespace) -> Tuple[AbsESPnetModel, argparse.Namespace]:
    """Load a model as `load` does, quantized as the options of espnet_rand.toolkit.options say, if they are given.

    Raises:
        QuantizationError: they are given and the model has a quantizer of its own, or neither
    """
    model, trained = load(args, options.resolve(args))
    if not quantized_layers(model):
        raise QuantizationError("the model was trained in float: give --quantizer, to round its weights")
    return model, trained


def pack(model: AbsESPnetModel, bits: Optional[EvalBits] = None) -> PackedModel:
    """Pack a quantized model at `bits`, with the versions and the resolved options in its metadata.

    Raises:
        PackedFileError: it has adapters that cannot be packed
    """
    check_adapter(getattr(model, "_adapter", "lora"))
    if bits is not None:
        set_eval_bits(model, bits)
    info = {"espnet": espnet2.__version__, "espnet_rand": espnet_rand.__version__, **_whisper(model)}
    quantization = getattr(model, "_quantization", None)
    return pack_model(model, {**info, **quantization.config.to_dict()} if quantization else info)


def _whisper(model: AbsESPnetModel) -> Dict[str, Any]:
    """What exports need to know of a Whisper model, and its tensors do not say; of others nothing."""
    encoder, decoder = getattr(model, "encoder", None), getattr(model, "decoder", None)
    if not isinstance(encoder, OpenAIWhisperEncoder) or not isinstance(decoder, OpenAIWhisperDecoder):
        return {}
    start, tokens = "<|startoftranscript|>", list(model.token_list)
    about = {
        "n_audio_head": encoder.encoders.blocks[0].attn.n_head,
        "n_text_head": decoder.decoders.blocks[0].attn.n_head,
        "start_of_transcript": tokens.index(start) if start in tokens else -1,
    }
    return {"whisper": about}
