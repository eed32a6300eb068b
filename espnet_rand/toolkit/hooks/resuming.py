"""`--resume`: refuses to go on with what a training of another kind has left, before anything of it is overwritten."""

import argparse
from pathlib import Path
from typing import Optional

from torch import nn

from espnet_rand.config import QuantizerConfig
from espnet_rand.layers import believe, own_scales, split_scales
from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit import options
from espnet_rand.toolkit.pretrained.sources import read_shapes


def check(model: Optional[nn.Module], config: Optional[QuantizerConfig], args: argparse.Namespace) -> None:
    """Check that a training fits the one whose directory it goes on in, if it does.

    Learned scales of the same weights and groups that are of another quantizer start from the weights, when they are
    loaded.

    Args:
        model: the quantized one; None: it is trained in float
        config: what it was quantized with; None: it is trained in float
        args: of the training

    Raises:
        OptionError: one of the two trainings is in float; the optimizer has the state of other learned scales
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
    theirs = {weight: scale.numel() for weight, scale in _scales(checkpoint)}
    ours = {} if model is None else {weight: scale.groups for weight, scale in own_scales(model).items()}
    if checkpoint.exists() and theirs != ours and not getattr(args, "use_adapter", False):
        different = sorted(weight for weight in {*theirs, *ours} if theirs.get(weight) != ours.get(weight))
        raise OptionError(
            f"quantizer: the training in {folder} cannot be resumed with these options: the learned scales of "
            f"{len(different)} weights differ in number ({', '.join(different[:3])}), and the optimizer has their "
            f"state. {_mend(checkpoint)}"
        )
    if model is not None:
        believe(model, options.trained_with(folder / "config.yaml") or config)


def _scales(checkpoint: Path):
    state = read_shapes(checkpoint) if checkpoint.exists() else {}
    return [(weight, state[key]) for key, (weight, _) in split_scales(state).items()]


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
