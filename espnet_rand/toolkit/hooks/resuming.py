"""`--resume`: refuses to go on with what a training of another kind has left, before anything of it is overwritten."""

import argparse
import logging
from pathlib import Path
from typing import Optional

import torch
from torch import nn

from espnet_rand.atomic import replacing
from espnet_rand.config import QuantizerConfig
from espnet_rand.layers import SCALE_SUFFIX, Kinds, believe, kinds_of, others, own_scales, split_scales
from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit import options
from espnet_rand.toolkit.pretrained.sources import read, read_shapes


def check(model: nn.Module, config: Optional[QuantizerConfig], args: argparse.Namespace) -> None:
    """Check that a training fits the one whose directory it goes on in, if it does.

    Its learned scales must be of the same weights and the same quantizer: the optimizer has their state, and ESPnet
    averages checkpoints of before and after. Those of version 0.1, which do not say what they are, are named by the
    directory's config.yaml, in its files of epochs as well.

    Args:
        model: that is trained
        config: what it was quantized with; None: it is trained in float
        args: of the training

    Raises:
        OptionError: one of the two trainings is in float; their learned scales are not the same
    """
    directory = getattr(args, "output_dir", None)
    if directory is None:
        return
    folder = Path(directory)
    checkpoint = folder / "checkpoint.pth"
    resumed = getattr(args, "resume", False) and (checkpoint.exists() or any(folder.glob("checkpoint_*")))
    if not resumed and not (folder / "last.ckpt").exists():  # which lightning_train resumes, whatever it is told
        return
    check_kind(folder, config)
    before = options.trained_with(folder / "config.yaml") or config
    kinds = kinds_of(before) if before else None
    theirs = read_shapes(checkpoint) if checkpoint.exists() else {}
    scales = {weight: kind or (kinds(weight) if kinds else "") for weight, kind in split_scales(theirs).values()}
    ours = {weight: scale.kind for weight, scale in own_scales(model).items()}
    different = others(scales, ours)
    if theirs and different and not getattr(args, "use_adapter", False):
        raise OptionError(
            f"quantizer: the training in {folder} can't be resumed with these options: {different}, and the optimizer "
            f"has their state. {_mend(checkpoint)}"
        )
    if config and kinds:
        believe(model, before)
        if getattr(args, "dist_rank", None) in (None, 0):
            _name_scales(folder, kinds)


def _name_scales(folder: Path, kinds: Kinds) -> None:
    """Give the learned scales in files of epochs of version 0.1 the names that new ones have: ESPnet averages both."""
    for path in sorted(folder.glob("[0-9]*epoch.pth")):
        scales = {key: weight for key, (weight, kind) in split_scales(read_shapes(path)).items() if not kind}
        if scales:
            state = read(path)
            for key, weight in scales.items():
                state[f"{weight}__{kinds(weight)}{SCALE_SUFFIX}"] = state.pop(key)
            with replacing(path) as temporary:
                torch.save(state, temporary)
            logging.info(f"espnet_rand: {path}: its {len(scales)} learned scales are named as those of new checkpoints")


def check_kind(folder: Path, config: Optional[QuantizerConfig]) -> None:
    """Check that a training in a directory is quantized if the one is that left its config.yaml there.

    Raises:
        OptionError: one of the two is in float
    """
    before = folder / "config.yaml"
    if before.is_file() and (options.trained_with(before) is None) != (config is None):
        theirs, ours = ("without", "with") if config else ("with", "without")
        raise OptionError(
            f"quantizer: the training in {folder} was begun {theirs} a quantizer, and can't be resumed {ours} one: its "
            "config.yaml would change, by which the models there are decoded. "
            f"{_mend(folder / 'checkpoint.pth')}"
        )


def _mend(checkpoint: Path) -> str:
    return f"Mend: another --output_dir, and --init_param {checkpoint}"
