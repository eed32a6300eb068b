"""What ESPnet's model zoo, and `from_pretrained` of its programs, want to be told of a model."""

import argparse
import importlib
import inspect
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Tuple

import espnet2
import torch
from espnet2.utils.nested_dict_action import NestedDictAction

import espnet_rand
from espnet_rand.options import OptionError
from espnet_rand.toolkit.commands.checkpoints import find_task
from espnet_rand.toolkit.yaml_files import read_yaml

#: options of every training, not of a task, that a model is built and decoded with
_OF_MODELS = ("use_adapter", "adapter", "adapter_conf", "trailing_silence")
#: ends of options of a task that name lists of recordings, which trainings alone read
_LISTS = "_scp"


class Loader(NamedTuple):
    """The class that decodes with the models of a task.

    Attributes:
        module, name: where it is, e.g. espnet2.bin.asr_inference and Speech2Text
        config, model: what it calls config.yaml and the model file, e.g. asr_train_config and asr_model_file
        options: what else it takes, but for files
    """

    module: str
    name: str
    config: str
    model: str
    options: Tuple[str, ...]


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--search_conf` to a command's parser."""
    parser.add_argument(
        "--search_conf",
        action=NestedDictAction,
        default={},
        help="options of the search in the programs of the model card: beam_size=5, ctc_weight=0.3",
    )


def find_loader(task: str) -> Loader:
    """Find the class of a task that has `from_pretrained`. Raises OptionError: there is none."""
    module = f"espnet2.bin.{task}_inference"
    try:
        found = vars(importlib.import_module(module)).values()
    except ModuleNotFoundError as e:
        if e.name != module:
            raise
        found = ()
    for kind in found:
        if isinstance(kind, type) and kind.__module__ == module and hasattr(kind, "from_pretrained"):
            given = inspect.signature(kind).parameters
            config = next((name for name in given if name.endswith("train_config")), "")
            prefix = config.removesuffix("train_config")
            model = next((name for name in (f"{prefix}model_file", f"{prefix}file") if name in given), None)
            if model is not None:
                others = tuple(name for name in given if not name.endswith(("_config", "_file")))
                return Loader(module, kind.__name__, config, model, others)
    raise OptionError(f"--task: {task} has no program that loads published models. Fix: publish models of other tasks")


def decoding_options(task: str, config: Path) -> Dict[str, Any]:
    """The options of config.yaml that a packed model is decoded with: those of the task, and none of the training.

    The quantizer's are not among them: a packed file says itself how it is quantized.

    Raises:
        OptionError: it is not YAML, or no mapping
    """
    options = read_yaml(config)
    if not isinstance(options, dict):
        raise OptionError(f"{config} must hold options. Fix: give config.yaml of the training")
    kind = find_task(task)
    own = argparse.ArgumentParser()
    own.set_defaults(required=[])  # what ESPnet's functions add to
    kind.add_task_arguments(own)
    of_all = {action.dest for action in kind.get_parser()._actions} - {action.dest for action in own._actions}
    left_out = of_all.difference(_OF_MODELS)
    return {key: None if key.endswith(_LISTS) else value for key, value in options.items() if key not in left_out}


def meta(loader: Loader, config: str, model: str) -> Mapping[str, Any]:
    """What meta.yaml says: which argument of `loader` gets which file of the folder, and versions."""
    return {
        "files": {loader.model: model},
        "yaml_files": {loader.config: config},
        "espnet": espnet2.__version__,
        "espnet_rand": espnet_rand.__version__,
        "torch": str(torch.__version__),
    }
