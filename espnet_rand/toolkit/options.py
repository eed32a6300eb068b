"""The options of models and trainings, on the command line and in YAML. config.yaml gets them resolved.

They are `--quantizer`, `--quantizer_conf`, `--quantizer_config`, `--teacher`, `--teacher_conf` and
`--trailing_silence`.
"""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any, Dict, Optional, Type, Union

from espnet2.tasks.abs_task import AbsTask
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str_or_none

from espnet_rand.config import FormerConfig, QuantizerConfig, merged
from espnet_rand.distillation import Distillation
from espnet_rand.environment import seconds
from espnet_rand.options import OptionError
from espnet_rand.presets import presets
from espnet_rand.quantizers import SCALES
from espnet_rand.toolkit.yaml_files import read_yaml

NAMES = ("quantizer", "quantizer_conf", "quantizer_config", "teacher", "teacher_conf")
#: what `args` remember from parsing to building: which options took a default that has changed
_NEW_DEFAULTS = "new_defaults_of_espnet_rand"
#: the modules of tasks whose program does not ask `build_model_from_file` for the model
_DECODED_IN_FLOAT = ("espnet2.tasks.rst", "espnet2.tasks.rst_vocoder")


def has_its_own(task: Type[AbsTask]) -> bool:
    """Whether `--quantizer` is the task's own: ESPnet's codecs quantize activations by it, and stay as they are."""
    return any(choices.name == "quantizer" for choices in task.class_choices_list)


def check_task(task: Type[AbsTask]) -> None:
    """Check that a quantized model of a task can be decoded. Raises OptionError: its program would do so in float."""
    if any(kind.__module__ in _DECODED_IN_FLOAT for kind in task.__mro__):
        raise OptionError(
            f"quantizer: espnet2.bin.rst_inference reads weights by itself, and would decode those of {task.__name__} "
            "in float. Fix: leave quantizer and quantizer_config out"
        )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all options to an ESPnet task's parser: those of `add_arguments`, `--teacher` and `--teacher_conf`."""
    add_arguments(parser)
    group = parser.add_argument_group("Training a quantized model (espnet_rand)")
    group.add_argument(
        "--teacher",
        type=str_or_none,
        default=None,
        metavar="MODEL",
        help="In training, imitate this float model of the same architecture: what --init_param takes",
    )
    group.add_argument(
        "--teacher_conf",
        action=NestedDictAction,
        default={},
        help="The weights of the training's loss: "
        + ", ".join(f"{name}={weight:g}" for name, weight in dataclasses.asdict(Distillation()).items()),
    )
    parser.add_argument_group("Whisper (espnet_rand)").add_argument(
        "--trailing_silence",
        type=str_or_none,
        default=None,
        metavar="SECONDS|full",
        help="Whisper's encoder hears silence behind each recording, in training and in decoding; full: up to 30 s. "
        "Default: as they are in training, full in decoding",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that quantize a model to a parser; they are checked and resolved as soon as it parses.

    An option that is not allowed ends the program with one line on stderr, exit status 2.
    """
    group = parser.add_argument_group("Quantization (espnet_rand)")
    group.add_argument(
        "--quantizer",
        type=str_or_none,
        default=None,
        choices=(*SCALES, None),
        help="Quantize the weights, with this scale",
    )
    group.add_argument(
        "--quantizer_conf",
        action=NestedDictAction,
        default={},
        help="The keyword arguments for quantizer: bits, estimator, granularity, ...",
    )
    group.add_argument(
        "--quantizer_config",
        type=str_or_none,
        default=None,
        help="A preset, which the two options above override: a YAML file with quantizer and quantizer_conf, or one of "
        + ", ".join(presets()),
    )
    _checked(parser)


def _checked(parser: argparse.ArgumentParser) -> None:
    """Let a parser check and resolve the options as soon as it parses."""
    parse_known_args = parser.parse_known_args

    def parse_and_check(args=None, namespace=None):
        parsed, rest = parse_known_args(args, namespace)
        try:
            write_resolved(parsed)
            if getattr(parsed, "trailing_silence", None) is not None:
                seconds("trailing_silence", parsed.trailing_silence)
        except OptionError as e:
            parser.exit(2, f"{parser.prog}: error: {e}\n")
        return parsed, rest

    parser.parse_known_args = parse_and_check


def resolve(args: argparse.Namespace) -> Optional[QuantizerConfig]:
    """The configuration that `args` ask for; None where they ask for none.

    Raises:
        OptionError: see QuantizerConfig and Distillation; the preset is missing or not a preset
    """
    given = _given(args)
    return None if given is None else QuantizerConfig.from_dict(given)


def _given(args: argparse.Namespace) -> Optional[Dict[str, Any]]:
    """The options that `args` and their preset give, quantizer and quantizer_conf; None where they ask for none.

    Raises:
        OptionError: as `resolve` does, but for what QuantizerConfig raises
    """
    given_preset = getattr(args, "quantizer_config", None)
    options = _read_preset(given_preset) if given_preset else {}
    given = getattr(args, "quantizer_conf", None) or {}
    if not isinstance(given, dict):
        raise OptionError(f"quantizer_conf: {given!r} is not allowed, it must be a mapping of options")
    options = merged(options, getattr(args, "quantizer", None), given)
    _distillation(args)
    if options["quantizer"] is None:
        if options["quantizer_conf"]:
            raise OptionError(f"quantizer_conf is given without quantizer: choose one of {', '.join(SCALES)}")
        if getattr(args, "teacher", None):
            raise OptionError(f"teacher is given without quantizer: choose one of {', '.join(SCALES)}")
        return None
    return options


def write_resolved(args: argparse.Namespace, trained: bool = False) -> Optional[QuantizerConfig]:
    """Resolve the options as `resolve` does, and write each into `args`, so that the preset is not needed again.

    `args` become config.yaml. Where they ask for no quantizer, they stay as they are. Options that took a default that
    has changed are remembered there for `warn_of_defaults`, which is to be called before.

    Args:
        trained: whether `args` are those of a training's config.yaml

    Raises:
        OptionError: as `resolve` does
    """
    given = _given(args)
    if given is None:
        return None
    former = FormerConfig.from_dict(given)
    config = former if trained else QuantizerConfig.from_dict(given)
    teacher, weights = getattr(args, "teacher", None), _distillation(args)
    vars(args).update(config.to_dict(), quantizer_config=None, teacher=teacher, teacher_conf=weights)
    before = former.to_dict()["quantizer_conf"]
    changed = [f"{name}: {value} (before: {before[name]})" for name, value in config.differing(former)[0].items()]
    if changed and not getattr(args, "print_config", False):  # which would show them
        vars(args)[_NEW_DEFAULTS] = changed
    return config


def warn_of_defaults(args: argparse.Namespace, quiet: bool = False) -> None:
    """Log which options took a default that has changed, and let `args` forget it; `quiet`: forget it alone."""
    changed = vars(args).pop(_NEW_DEFAULTS, None)
    if changed and not quiet:
        logging.warning(
            f"espnet_rand: not given, and so by the new defaults: {', '.join(changed)}. The paper's setting, which was "
            "the default, is the preset rand_w4: --quantizer_config rand_w4"
        )


def trained_with(config: Optional[Path]) -> Optional[QuantizerConfig]:
    """Read from a training's config.yaml how it was quantized; None: in float, or there is no such file.

    Raises:
        OptionError: it is not YAML, or its options are not allowed
    """
    if config is None or not config.is_file():
        return None
    trained = read_mapping("config.yaml", config, "the options of a training")
    if trained.get("quantizer") not in SCALES:  # ESPnet's codecs have another
        return None
    return FormerConfig.from_dict({name: trained.get(name) for name in ("quantizer", "quantizer_conf")})


def remove(args: argparse.Namespace) -> None:
    """Take the options out of `args`, so that a run without them leaves a stock config.yaml."""
    for name in (*NAMES, _NEW_DEFAULTS):
        vars(args).pop(name, None)


def read_mapping(name: str, path: Union[str, Path], what: str) -> Dict[Any, Any]:
    """Read the mapping in the YAML file that option `name` gives.

    Raises:
        OptionError: there is no such file, or it holds something else; `what` is wanted
    """
    if not Path(path).is_file():
        raise OptionError(f"{name}: no such file: {path} ({what})")
    try:
        found = read_yaml(path)
    except OptionError as e:
        raise OptionError(f"{name}: {e}") from None
    if not isinstance(found, dict):
        raise OptionError(f"{name}: {path} must hold {what}")
    return found


def preset(given: str) -> QuantizerConfig:
    """The configuration of a preset, or of a file of that kind. Raises OptionError: there is none, or it is not one."""
    return QuantizerConfig.from_dict(_read_preset(given))


def _read_preset(given: str) -> Dict[str, Any]:
    """Read and check a preset, by its name or its file."""
    path = presets().get(given, given)
    options = read_mapping("quantizer_config", path, f"quantizer and quantizer_conf; presets: {', '.join(presets())}")
    try:
        QuantizerConfig.from_dict(options)
    except OptionError as e:
        raise OptionError(f"quantizer_config: {path}: {e}") from None
    return options


def _distillation(args: argparse.Namespace) -> Dict[str, float]:
    """The weights of `teacher_conf`, each with its value; empty without a teacher.

    Raises:
        OptionError: unknown key, wrong value; it is given without teacher
    """
    conf = getattr(args, "teacher_conf", None) or {}
    if not getattr(args, "teacher", None):
        if conf:
            raise OptionError("teacher_conf is given without teacher: give the float model that is to be imitated")
        return {}
    known = [field.name for field in dataclasses.fields(Distillation)]
    if not isinstance(conf, dict) or not set(conf) <= set(known):
        raise OptionError(f"teacher_conf: {conf!r} is not allowed, it must be a mapping of {', '.join(known)}")
    return dataclasses.asdict(Distillation(**conf))
