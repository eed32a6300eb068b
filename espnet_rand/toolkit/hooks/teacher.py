"""`--teacher`: distillation, a training in which the quantized model imitates a float one."""

import argparse
import logging
from typing import Any, Callable, Dict

import torch
from torch import nn

from espnet_rand import distillation
from espnet_rand.context import setting
from espnet_rand.options import OptionError
from espnet_rand.toolkit.eval_bits import LANGUAGE_MODELS
from espnet_rand.toolkit.hooks import init_param
from espnet_rand.toolkit.pretrained.fitting import PretrainedError, fit
from espnet_rand.toolkit.pretrained.sources import open_pretrained, read_weights


def distill(model: nn.Module, again: Callable[[], nn.Module], args: argparse.Namespace) -> None:
    """Let a model that is trained imitate the teacher that `args`, which are resolved, ask for, if any.

    It imitates the teacher's outputs, and the states of its encoder.

    Args:
        again: builds the float model anew, of arguments of its own (a copy would share the closures of some frontends)

    Raises:
        PretrainedError: there is no such teacher, or it has another architecture, or other tokens
        OptionError: the model gives nothing to imitate; DeepSpeed is used
    """
    if not args.teacher or getattr(args, "collect_stats", False):
        return
    if getattr(args, "use_deepspeed", False):
        raise OptionError(f"teacher: {args.teacher} is not possible with DeepSpeed. Fix: train without")
    outputs = _outputs(model)
    if not outputs:
        raise OptionError(
            f"teacher: {args.teacher} is given, but {type(model).__name__} has no decoder of tokens, CTC or joint "
            "network whose outputs could be imitated"
        )
    states = ["encoder"] if getattr(model, "encoder", None) is not None else []
    weights = distillation.Distillation(**args.teacher_conf)
    if not (weights.outputs or states):
        raise OptionError(
            f"outputs: 0 is not allowed in teacher_conf: {type(model).__name__} has no encoder to imitate"
        )
    with torch.random.fork_rng(devices=[]):
        teacher = again()
    with open_pretrained(args.teacher, isinstance(model, LANGUAGE_MODELS)) as files, setting(init_param.training, args):
        misfits = init_param.describe(fit(teacher, read_weights(files.model_file)), files.train_config)
    if misfits:
        raise PretrainedError(f"--teacher {args.teacher} does not fit the model: {misfits}")
    for name in vars(teacher):  # it need not search for words and count errors, as ESPnet's models do in evaluation
        if "error_calculator" in name:
            setattr(teacher, name, None)
        elif name.startswith("report_"):
            setattr(teacher, name, False)
    ctc: Any = getattr(teacher, "ctc", None)
    if ctc is not None:
        ctc.dropout_rate = 0.0  # which it applies in evaluation, too
    # decoders are given the lengths of their tokens
    distillation.distill(model, teacher, weights, outputs, states, lengths="ys_in_lens")
    logging.info(f"espnet_rand: distilled from {args.teacher}")


def _outputs(model: nn.Module) -> Dict[str, float]:
    """The modules of an ESPnet model that give logits, with their weights in its loss."""
    tokens = hasattr(model, "vocab_size") and not hasattr(model, "classification_type")
    joint = (
        "st_joint_network" if hasattr(model, "st_joint_network") else "joint_network"
    )  # speech translation has the former
    has = {name: tokens and getattr(model, name, None) is not None for name in ("ctc", "decoder", joint)}
    ctc = getattr(model, "ctc_weight", 0.0 if has["decoder"] else 1.0) if has["ctc"] else 0.0
    parts = {
        joint: 1.0 if has[joint] else 0.0,
        "decoder": 1.0 - ctc if has["decoder"] and not has[joint] else 0.0,
        "ctc.ctc_lo": ctc,
        "lm": 1.0 if isinstance(model, LANGUAGE_MODELS) else 0.0,
    }
    return {name: weight for name, weight in parts.items() if weight}
