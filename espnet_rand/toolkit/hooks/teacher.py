"""`--teacher`: a training in which the quantized model imitates a float one."""

import argparse
import logging
from typing import Callable, Dict, Optional

import torch
from torch import nn

from espnet_rand import distillation
from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit.eval_bits import LANGUAGE_MODELS
from espnet_rand.toolkit.hooks.init_param import other_tokens
from espnet_rand.toolkit.pretrained.fitting import PretrainedError, fit
from espnet_rand.toolkit.pretrained.sources import opened, read


def build(model: nn.Module, again: Callable[[], nn.Module], args: argparse.Namespace) -> Optional[nn.Module]:
    """The teacher that `args` ask for, if any.

    Args:
        model: the float model that is trained
        again: builds it anew (a copy would share the closures of some frontends)

    Raises:
        PretrainedError: there is no such model, or it is of another architecture, or of other tokens
        OptionError: the model gives nothing to imitate; DeepSpeed is used
    """
    if not getattr(args, "teacher", None) or getattr(args, "collect_stats", False):
        return None
    if getattr(args, "use_deepspeed", False):
        raise OptionError(f"teacher: {args.teacher} is not possible with DeepSpeed. Mend: train without")
    if not _outputs(model):
        raise OptionError(
            f"teacher: {args.teacher} is given, but {type(model).__name__} has no decoder of tokens, CTC or joint "
            "network whose outputs could be imitated"
        )
    with torch.random.fork_rng():
        teacher = again()
    with opened(args.teacher, isinstance(model, LANGUAGE_MODELS)) as files:
        fitted = fit(teacher, read(files.model_file))
        misfits = "; ".join(filter(None, (fitted.misfits(), other_tokens(files.train_config))))
    if misfits:
        raise PretrainedError(f"--teacher {args.teacher} does not fit the model: {misfits}")
    for name in vars(teacher):  # it need not search for words and count errors, as ESPnet's models do in evaluation
        if "error_calculator" in name:
            setattr(teacher, name, None)
        elif name.startswith("report_"):
            setattr(teacher, name, False)
    logging.info(f"espnet_rand: taught by {args.teacher}")
    return teacher


def teach(model: nn.Module, teacher: nn.Module, weights: distillation.Distillation) -> None:
    """Let the model imitate its teacher's outputs, and the states of its encoder."""
    states = ["encoder"] if getattr(model, "encoder", None) is not None else []
    distillation.teach(model, teacher, weights, _outputs(model), states)


def _outputs(model: nn.Module) -> Dict[str, float]:
    """The modules of an ESPnet model that give logits, and what they count in its loss."""
    tokens = hasattr(model, "vocab_size") and not hasattr(model, "classification_type")
    has = {name: tokens and getattr(model, name, None) is not None for name in ("ctc", "decoder", "joint_network")}
    ctc = getattr(model, "ctc_weight", 0.0 if has["decoder"] else 1.0) if has["ctc"] else 0.0
    parts = {
        "joint_network": 1.0 if has["joint_network"] else 0.0,
        "decoder": 1.0 - ctc if has["decoder"] and not has["joint_network"] else 0.0,
        "ctc.ctc_lo": ctc,
        "lm": 1.0 if isinstance(model, LANGUAGE_MODELS) else 0.0,
    }
    return {name: weight for name, weight in parts.items() if weight}
