"""Serves programs that a recipe gives the options of a training to, beside the trained model.

ESPnet's spk.sh gives `--spk_args` to the training and to `espnet2.bin.spk_embed_extract`. Such programs take the
options of espnet_rand as well. They build the model of its config.yaml all the same, and refuse other options.
"""

import argparse
import functools
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

from espnet2.utils import config_argparse

from espnet_rand.config import QuantizerConfig
from espnet_rand.options import OptionError
from espnet_rand.toolkit import options


def register() -> None:
    """Wrap ESPnet's parser of programs. It is to be called once."""
    parser = config_argparse.ArgumentParser
    parser.parse_known_args = _wrapped(parser.parse_known_args)


def _wrapped(original: Callable) -> Callable:
    """A `parse_known_args` that adds the options, checks them and takes them away again."""

    @functools.wraps(original)
    def parse_known_args(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Tuple[Any, Any]:
        config = _train_config(parser)
        if config is None:
            return original(parser, args, namespace)
        options.add_training_arguments(parser)  # it is not this function that the parser has then
        parsed, rest = parser.parse_known_args(args, namespace)
        try:
            _check(options.resolve(parsed), getattr(parsed, config))
        except OptionError as e:
            parser.exit(2, f"{parser.prog}: error: {e}\n")
        options.remove(parsed)
        parsed.__dict__.pop("trailing_silence", None)  # the model has it from its configuration
        return parsed, rest

    return parse_known_args


def _train_config(parser: argparse.ArgumentParser) -> Optional[str]:
    """The name of the option that takes the configuration of the trained model; None: a program of another kind.

    A program of this kind has a trainer's options. Programs of a task have `--quantizer` already.
    """
    names = {action.dest for action in parser._actions}
    if "multiprocessing_distributed" not in names or "quantizer" in names:
        return None
    return next((name for name in names if name.endswith("_train_config")), None)


def _check(given: Optional[QuantizerConfig], config: Optional[str]) -> None:
    """Check the options. Raises OptionError: they are not those that the model was trained with."""
    if given is None or config is None or not Path(config).is_file():
        return
    trained = options.trained_with(Path(config))
    if trained is None or any(given.differing(trained)):
        raise OptionError(
            f"quantizer: the model of {config} was trained with {trained or 'none'}, and not with {given}. "
            "Fix: leave these options out, which the model has from its configuration, or train anew"
        )
