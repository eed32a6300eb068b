"""Serves checkpoints of no more than what was trained (`save_strategy: adapter_only`, `required_grad_only`)."""

import argparse
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional

import torch
from espnet2.tasks import abs_task
from torch import Tensor, nn

from espnet_rand.context import setting
from espnet_rand.layers import SCALE_SUFFIX, own_scales
from espnet_rand.options import OptionError
from espnet_rand.toolkit.hooks import init_param
from espnet_rand.toolkit.pretrained.fitting import PretrainedError

_SHOWN = 3


def is_partial(trained: argparse.Namespace) -> bool:
    """Whether the checkpoints of a training hold no more than what was trained."""
    return getattr(trained, "use_adapter", False) and getattr(trained, "save_strategy", "all") != "all"


def check_training(model: nn.Module, args: argparse.Namespace) -> None:
    """Check that a quantized training will save what it trains, and can be resumed.

    Raises:
        OptionError: it learns scales that would not be saved; it is resumed, and ESPnet would load what is left of it
            into merged adapters
    """
    if not is_partial(args):
        return
    if args.save_strategy == "adapter_only" and own_scales(model):
        raise OptionError(
            "save_strategy: adapter_only does not save learned scales (lsc, rand with mode: 3). Fix: "
            "--save_strategy required_grad_only"
        )
    if getattr(args, "resume", False) and Path(args.output_dir, "checkpoint.pth").exists():
        raise OptionError(
            f"save_strategy: {args.save_strategy} can't be resumed: ESPnet loads the adapter's base from init_param as "
            "if the adapter were merged into it. Fix: train anew with --save_strategy all"
        )


def warn_of_unsaved(model: nn.Module, args: Optional[argparse.Namespace]) -> None:
    """Log what a training with an adapter trains, and does not save."""
    if args is None or not is_partial(args) or args.save_strategy != "adapter_only":
        return
    unsaved = [n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n and "adapter" not in n]
    if unsaved:
        logging.warning(
            f"espnet_rand: save_strategy: adapter_only saves the adapter alone. {len(unsaved)} other parameters train "
            f"({', '.join(unsaved[:_SHOWN])}): what they learn is lost. Fix: --freeze_param, or "
            "--save_strategy required_grad_only"
        )


@contextmanager
def completing(model: nn.Module, trained: argparse.Namespace, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Load inside the block a checkpoint that holds no more than what was trained; the rest is loaded before it.

    Raises:
        PretrainedError: see `give_base`
    """
    give_base(model, trained)
    yield
    merge(model, state)


def merge(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Merge LoRA's adapters of a checkpoint into weights that it lacks: layers of a new model pass for merged ones."""
    for name, layer in model.named_modules():
        if f"{name}.lora_A" in state and f"{name}.weight" not in state and not layer.training:
            layer.merged = False
            layer.eval()


def give_base(model: nn.Module, trained: argparse.Namespace) -> None:
    """Load what a training started from, its `init_param`, into a model of it.

    Raises:
        PretrainedError: it is not there, or does not fit
    """
    given = getattr(trained, "init_param", None) or ()
    try:
        with setting(init_param.training, trained):
            for one in given:
                abs_task.load_pretrained_model(one, model, getattr(trained, "ignore_init_mismatch", False), "cpu")
    except (OSError, PretrainedError) as e:
        raise PretrainedError(
            f"save_strategy {trained.save_strategy}: the checkpoint holds what was trained, and the rest is that of "
            f"init_param, which can't be loaded: {e} (paths are relative to the directory of the training)"
        ) from e


def check_base(model: nn.Module, again: Callable[[], nn.Module], trained: argparse.Namespace) -> None:
    """Check that no weight of a model is random: build it once more, with another seed, and compare.

    Args:
        again: builds the model, with all weights that there are

    Raises:
        PretrainedError: there are random weights
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        other: Mapping[str, Tensor] = again().state_dict()
    state = model.state_dict()
    random = [k for k, v in state.items() if not k.endswith(SCALE_SUFFIX) and not torch.equal(v.cpu(), other[k].cpu())]
    if random:
        raise PretrainedError(
            f"save_strategy {trained.save_strategy}: the checkpoint holds no more than what was trained, and nothing "
            f"gives {len(random)} other tensors ({', '.join(random[:_SHOWN])}), which would be random. Fix: put what "
            "the training started from under init_param in its config.yaml, or train with save_strategy: all"
        )
