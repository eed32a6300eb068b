"""ESPnet checkpoints as models: what the commands of espnet_rand.bin share."""

import argparse
import importlib
import pkgutil
from pathlib import Path
from typing import Type

import espnet2
import espnet2.tasks
from espnet2.tasks.abs_task import AbsTask

import espnet_rand
from espnet_rand.packing import PackedModel, pack_model


def task_names() -> list:
    """Names of ESPnet's tasks: asr, asr_transducer, lm, mt, ..."""
    return sorted(m.name for m in pkgutil.iter_modules(espnet2.tasks.__path__) if m.name != "abs_task")


def find_task(name: str) -> Type[AbsTask]:
    """The task class of a name."""
    module = importlib.import_module(f"espnet2.tasks.{name}")
    return next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, AbsTask) and kind.__module__ == module.__name__
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--task`, `--train_config`, `--model_file`, `--output`."""
    parser.add_argument("--task", default="asr", choices=task_names(), metavar="TASK", help="asr, lm, mt, ...")
    parser.add_argument("--train_config", type=Path, required=True, help="config.yaml of the training")
    parser.add_argument("--model_file", type=Path, help="e.g. valid.acc.ave.pth; default: the weights it is built with")
    parser.add_argument("--output", type=Path, required=True, help="the packed file, e.g. valid.acc.ave.w4.safetensors")


def load(args: argparse.Namespace):
    """The model of `--task`, `--train_config` and `--model_file`, quantized where the configuration says so."""
    for path in (args.train_config, args.model_file):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
    espnet_rand.register()
    model, _ = find_task(args.task).build_model_from_file(args.train_config, args.model_file)
    return model


def pack(model) -> PackedModel:
    """A quantized model of ESPnet, packed, with the versions and the resolved options in its metadata."""
    info = {"espnet": espnet2.__version__, "espnet_rand": espnet_rand.__version__}
    quantization = getattr(model, "_quantization", None)
    return pack_model(model, {**info, **quantization.config.to_dict()} if quantization else info)
