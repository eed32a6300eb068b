"""`--resume`: refuses to go on with what a training of another kind has left, before anything of it is overwritten."""

import argparse
import logging
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple, Optional

from torch import nn

from espnet_rand.atomic import write_tensors
from espnet_rand.config import QuantizerConfig
from espnet_rand.layers import (
    Kinds,
    believe,
    kinds_of,
    others,
    own_scales,
    quantized_weights,
    quantizers_of,
    rounding_kind,
    scale_key,
    split_scales,
)
from espnet_rand.options import OptionError
from espnet_rand.toolkit import options
from espnet_rand.toolkit.pretrained.sources import read, read_shapes


class Before(NamedTuple):
    """What the directory of a training says of an earlier one, by its config.yaml.

    Attributes:
        known: whether there is one that can be read
        config: what that training was quantized with; None: in float
    """

    known: bool
    config: Optional[QuantizerConfig]


#: Looked at before the processes of a training wait for each other: the first to build its model writes a new one.
before: ContextVar[Optional[Before]] = ContextVar("before", default=None)


def look(args: argparse.Namespace) -> Before:
    """What there is where a training will write."""
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

    Its weights must round as they did: config.yaml is what the models of both are decoded by, ESPnet averages epochs of
    before and after, and the optimizer has the state of learned scales. Those of version 0.1, which do not say what
    they are, are named by the directory's config.yaml, in its files of epochs as well.

    Args:
        model: that is trained
        config: what it was quantized with; None: it is trained in float
        args: of the training

    Raises:
        OptionError: one of the two trainings is in float; weights round otherwise
    """
    directory = getattr(args, "output_dir", None)
    if directory is None or not _resumes(Path(directory), args):
        return
    folder, then = Path(directory), before.get() or look(args)
    if then.known:
        check_kind(folder, then.config, config)
        different = config and _others(then.config, config, model)
    else:
        different = _other_scales(folder / "checkpoint.pth", model)
    if different:
        raise OptionError(
            f"quantizer: the training in {folder} can't be resumed with these options: {different}. {_fix(folder)}"
        )
    if then.config:
        believe(model, then.config)
        if getattr(args, "dist_rank", None) in (None, 0):
            _name_scales(folder, kinds_of(then.config, model))


def _resumes(folder: Path, args: argparse.Namespace) -> bool:
    """Whether a training goes on; that of lightning_train does so whatever it is told."""
    if hasattr(args, "lightning_conf"):
        return (folder / "last.ckpt").exists()
    there = (folder / "checkpoint.pth").exists() or any(folder.glob("checkpoint_*"))
    return getattr(args, "resume", False) and there


def _others(old: QuantizerConfig, new: QuantizerConfig, model: nn.Module) -> str:
    """How the weights of a model round otherwise by one configuration than by another; empty where they don't."""
    for name in ("include", "exclude", "depthwise"):
        theirs, ours = getattr(old, name), getattr(new, name)
        if theirs != ours:
            return f"{name} is {ours} here, {theirs} there"
    theirs, ours = (
        {name: rounding_kind(quantizers_of(config, model)(name)) for name in quantized_weights(model)}
        for config in (old, new)
    )
    return others(theirs, ours, "weights round otherwise")


def _other_scales(checkpoint: Path, model: nn.Module) -> str:
    """How the learned scales of a checkpoint differ from a model's; empty where they don't, or nothing can be read."""
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
            state = read(path)
            for key, weight in scales.items():
                state[scale_key(weight, kinds(weight))] = state.pop(key)
            write_tensors(path, state)
            logging.info(f"espnet_rand: {path}: its {len(scales)} learned scales are named as those of new checkpoints")


def check_kind(folder: Path, old: Optional[QuantizerConfig], new: Optional[QuantizerConfig]) -> None:
    """Check that a training in a directory is quantized if the one is that left its config.yaml there.

    Raises:
        OptionError: one of the two is in float
    """
    if (old is None) != (new is None):
        theirs, ours = ("without", "with") if new else ("with", "without")
        raise OptionError(
            f"quantizer: the training in {folder} was begun {theirs} a quantizer, and can't be resumed {ours} one: its "
            f"config.yaml would change, by which the models there are decoded. {_fix(folder)}"
        )


def _fix(folder: Path) -> str:
    there = [folder / name for name in ("latest.pth", "checkpoint.pth") if (folder / name).exists()]
    return "Fix: another --output_dir" + (f", and --init_param {there[0]}" if there else "")
