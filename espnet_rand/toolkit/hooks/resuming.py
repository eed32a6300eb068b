"""`--resume`: refuses to go on in the directory of a training of another kind, before it overwrites anything."""

import argparse
import logging
import shlex
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional

import yaml
from torch import nn

from espnet_rand.atomic import write_tensors
from espnet_rand.config import QuantizerConfig
from espnet_rand.layers import (
    Kinds,
    believe,
    kinds_of,
    others,
    own_scales,
    scale_key,
    split_scales,
)
from espnet_rand.options import OptionError
from espnet_rand.toolkit import options
from espnet_rand.toolkit.pretrained.sources import read_shapes, read_weights


class Before(NamedTuple):
    """The earlier training in a directory, by its config.yaml.

    Attributes:
        known: whether there is a config.yaml that can be read
        config: what that training was quantized with; None: in float
    """

    known: bool
    config: Optional[QuantizerConfig]


#: Read before the processes of a training wait for each other: the first to build its model writes a new config.yaml.
before: ContextVar[Optional[Before]] = ContextVar("before", default=None)


def read_before(args: argparse.Namespace) -> Before:
    """Read what there is where a training will write."""
    path = Path(getattr(args, "output_dir", None) or "", "config.yaml")
    if not path.is_file():
        return Before(False, None)
    try:
        return Before(True, options.trained_with(path))
    except OptionError as e:
        logging.warning(f"espnet_rand: {e}: whether this training fits the one that wrote it can't be told")
        return Before(False, None)


def check(model: nn.Module, config: Optional[QuantizerConfig], args: argparse.Namespace) -> None:
    """Check that a training fits the one whose directory it goes on in, if it does.

    It must have the options of before: the models of both are decoded by config.yaml, ESPnet averages epochs of before
    and after, and the optimizer has the state of learned scales. Learned scales of version 0.1 do not say what they
    are; config.yaml names them, in the directory's files of epochs as well.

    Args:
        model: the model that is trained
        config: what it was quantized with; None: it is trained in float
        args: the options of the training

    Raises:
        OptionError: see `check_options`; config.yaml is gone, and learned scales are others
    """
    directory = getattr(args, "output_dir", None)
    if directory is None or not _resumes(Path(directory), args):
        return
    folder, then = Path(directory), before.get() or read_before(args)
    if then.known:
        check_options(folder, then.config, config)
    elif different := _other_scales(folder / "checkpoint.pth", model):
        raise _refusal(folder, different, "Fix: ")
    if then.config:
        believe(model, then.config)
        if getattr(args, "dist_rank", None) in (None, 0):
            _name_scales(folder, kinds_of(then.config, model))


def _resumes(folder: Path, args: argparse.Namespace) -> bool:
    """Whether a training goes on in a directory; lightning_train does so whatever it is told."""
    if hasattr(args, "lightning_conf"):
        return (folder / "last.ckpt").exists()
    there = (folder / "checkpoint.pth").exists() or any(folder.glob("checkpoint_*"))
    return getattr(args, "resume", False) and there


def _other_scales(checkpoint: Path, model: nn.Module) -> str:
    """Say how a checkpoint's learned scales differ from a model's; empty where they don't, or can't be read."""
    state = read_shapes(checkpoint) if checkpoint.exists() else {}
    theirs = dict(split_scales(state).values())
    if "" in theirs.values():
        return "its learned scales do not say what they are (version 0.1), and its config.yaml is gone"
    ours = {weight: scale.kind for weight, scale in own_scales(model).items() if weight in state}
    return others(theirs, ours)


def _name_scales(folder: Path, kinds: Kinds) -> None:
    """Give the learned scales in files of epochs of version 0.1 the names that new ones have: ESPnet averages both."""
    for path in sorted(folder.glob("[0-9]*epoch.pth")):
        scales = {key: weight for key, (weight, kind) in split_scales(read_shapes(path)).items() if not kind}
        if scales:
            state = read_weights(path)
            for key, weight in scales.items():
                state[scale_key(weight, kinds(weight))] = state.pop(key)
            write_tensors(path, state)
            logging.info(f"espnet_rand: {path}: its {len(scales)} learned scales are named as those of new checkpoints")


def check_options(folder: Path, old: Optional[QuantizerConfig], new: Optional[QuantizerConfig]) -> None:
    """Check that a training has the options of the one that left its config.yaml in the directory.

    `eval_bits` and `histograms` may be others.

    Raises:
        OptionError: it has others, or one of the two is in float
    """
    if old is None and new is None:
        return
    if old is None or new is None:
        theirs, ours = ("without", "with") if new else ("with", "without")
        raise OptionError(
            f"quantizer: the training in {folder} was begun {theirs} a quantizer, and can't be resumed {ours} one: its "
            f"config.yaml would change, by which the models there are decoded. Fix: {_elsewhere(folder)}"
        )
    here, there = new.differing(old)
    if here or there:
        raise _refusal(folder, _said(here, there), f"Fix: add {_words(there)}, or " if there else "Fix: ")


def _said(here: Dict[str, Any], there: Dict[str, Any]) -> str:
    """Options of this training and of an earlier one, in words."""
    sides = {
        name: [f"{side[name]} {where}" for side, where in ((here, "here"), (there, "there")) if name in side]
        for name in {**there, **here}
    }
    return ", ".join(f"{name} is {', '.join(values)}" for name, values in sides.items())


def _refusal(folder: Path, different: str, fix: str) -> OptionError:
    return OptionError(
        f"quantizer: the training in {folder} can't be resumed with these options: {different}. {fix}"
        f"{_elsewhere(folder)}"
    )


def _words(options: Dict[str, Any]) -> str:
    """The words of a command line that give options."""
    words = []
    for name, value in options.items():
        text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=float("inf")).strip()[1:-1]
        words += ["--quantizer", text] if name == "quantizer" else ["--quantizer_conf", f"{name}={text}"]
    return shlex.join(words)


def _elsewhere(folder: Path) -> str:
    """What to do in place of resuming."""
    there = [folder / name for name in ("latest.pth", "checkpoint.pth") if (folder / name).exists()]
    return "another --output_dir" + (f", and --init_param {there[0]}" if there else "")
