"""`--teacher`: a training in which the quantized model imitates a float one."""

import argparse
import copy
import logging
from typing import Dict, Optional

from torch import nn

from espnet_rand import distillation
from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit.pretrained.fitting import PretrainedError, fit
from espnet_rand.toolkit.pretrained.sources import opened, read


def build(model: nn.Module, args: argparse.Namespace) -> Optional[nn.Module]:
    """The teacher that `args` ask for, if any: a copy of the float model, with the teacher's weights.

    Raises:
        PretrainedError: there is no such model, or it is of another architecture
        OptionError: the model gives nothing to imitate; DeepSpeed is used
    """
    if not getattr(args, "teacher", None):
        return None
    if getattr(args, "use_deepspeed", False):
        raise OptionError(f"teacher: {args.teacher} is not possible with DeepSpeed. Mend: train without")
    if not _outputs(model):
        raise OptionError(
            f"teacher: {args.teacher} is given, but {type(model).__name__} has no decoder, CTC or joint network whose "
            "outputs could be imitated"
        )
    teacher = copy.deepcopy(model)
    with opened(args.teacher) as files:
        fitted = fit(teacher, read(files.model_file))
    if misfits := fitted.misfits():
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
    ctc = getattr(model, "ctc_weight", 0.0) if getattr(model, "ctc", None) is not None else 0.0
    transducer = getattr(model, "joint_network", None) is not None
    parts = {
        "joint_network": 1.0 if transducer else 0.0,
        "decoder": 1.0 - ctc if getattr(model, "decoder", None) is not None and not transducer else 0.0,
        "ctc.ctc_lo": ctc,
        "lm": 1.0 if getattr(model, "lm", None) is not None else 0.0,
    }
    return {name: weight for name, weight in parts.items() if weight}
