"""Training that imitates a float model: its outputs and hidden states, in place of the labels or beside them."""

import dataclasses
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from espnet_rand.quantizers.options import Options, number, option


@dataclasses.dataclass(frozen=True)
class Distillation(Options):
    """The weights of the terms that a taught model's loss is the sum of.

    Attributes:
        labels: of the model's own loss, that of the labels
        outputs: of the Kullback-Leibler divergence from the teacher's outputs, in nats, summed over a sentence (Hinton
            et al., arXiv 1503.02531, with temperature 1)
        states: of the squared error of hidden states, in parts of the teacher's sum of squares (FitNets, arXiv
            1412.6550, Eq. 3, without the regressor)

    Raises:
        OptionError: one is negative, or no number
    """

    labels: float = option(0.0, number(0))
    outputs: float = option(1.0, number(0))
    states: float = option(40.0, number(0))


def teach(
    model: nn.Module, teacher: nn.Module, weights: Distillation, outputs: Mapping[str, float], states: Sequence[str]
) -> None:
    """Let the training forwards of an ESPnet model return the loss of imitating a teacher.

    The teacher computes with the same batch, in evaluation mode: without dropout or SpecAugment. The statistics get two
    more, `outputs` and `states`; those that there are stay. Evaluation forwards are left alone.

    Args:
        model: returns (loss, statistics, weight)
        teacher: a model of the same architecture; it is frozen, and follows the model to its device
        outputs: names of modules that give logits or log-probabilities, (batch, frames or tokens, ..., classes), alone
            or first in a tuple with their lengths; and what their divergence counts
        states: names of modules that give hidden states, (batch, frames, features), in the same way
    """
    teacher.eval().requires_grad_(False)
    given: Dict[str, Any] = {}
    wanted: Dict[str, Any] = {}

    def keep(kept: Dict[str, Any], name: str):
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if model.training:
                kept[name] = output

        return hook

    for kept, whole in ((given, model), (wanted, teacher)):
        for name in {*outputs, *states}:
            whole.get_submodule(name).register_forward_hook(keep(kept, name))

    def imitate(model: nn.Module, args: Any, kwargs: Any, output: Any) -> Optional[Tuple[Tensor, Dict, Tensor]]:
        if not model.training:
            return None
        loss, statistics, weight = output
        with torch.no_grad():
            teacher.to(loss.device)(*args, **kwargs)
        ours, theirs, lengths = {}, {}, {}
        for name in given:
            (ours[name], lengths[name]), (theirs[name], _) = _unpacked(given[name]), _unpacked(wanted[name])
        for name in outputs:  # CTC's and a joint network's come without: they are as long as the encoder's
            if lengths[name] is None:
                like = [state for state in states if ours[state].shape[:2] == ours[name].shape[:2]]
                lengths[name] = lengths[like[0]] if like else None
        terms = {"outputs": sum(n * divergence(ours[name], theirs[name], lengths[name]) for name, n in outputs.items())}
        if states:
            terms["states"] = sum(relative_error(ours[name], theirs[name], lengths[name]) for name in states)
        given.clear()
        wanted.clear()
        statistics = {**statistics, **{name: term.detach().reshape(1) for name, term in terms.items()}}
        total = sum(getattr(weights, name) * term for name, term in terms.items()).reshape(loss.shape)
        return total + weights.labels * loss if weights.labels else total, statistics, weight

    model.register_forward_hook(imitate, with_kwargs=True)


def divergence(given: Tensor, wanted: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
    """KL(wanted || given), in nats: summed over frames or tokens, the mean of sentences.

    Args:
        given, wanted: logits or log-probabilities, (batch, frames or tokens, classes); of a lattice, (batch, frames,
            labels, classes), the mean of a frame's labels is summed
        lengths: (batch,), in frames or tokens; None: all count
    """
    ours, theirs = given.float().log_softmax(-1), wanted.float().log_softmax(-1)
    each = nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    each = each.flatten(2).mean(2) if each.dim() > 2 else each
    return (each * _inside(each, lengths)).sum() / len(each)


def relative_error(given: Tensor, wanted: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
    """Squared error of hidden states, (batch, frames, features), in parts of the sum of squares of those wanted.

    Args:
        lengths: (batch,), in frames; None: all count
    """
    inside = _inside(wanted, lengths)[:, :, None]
    return ((given.float() - wanted.float()).square() * inside).sum() / (wanted.float().square() * inside).sum()


def _unpacked(output: Any) -> Tuple[Tensor, Optional[Tensor]]:
    """The tensor that a module gives, and the lengths, (batch,), that stand behind it, if any."""
    if isinstance(output, Tensor):
        return output, None
    tensor = _unpacked(output[0])[0]
    lengths = output[1] if len(output) > 1 else None
    return tensor, lengths if isinstance(lengths, Tensor) and lengths.shape == tensor.shape[:1] else None


def _inside(tensor: Tensor, lengths: Optional[Tensor]) -> Tensor:
    """(batch, frames): what is no padding; all, where no lengths are known."""
    if lengths is None:
        return tensor.new_ones(tensor.shape[:2])
    return torch.arange(tensor.shape[1], device=tensor.device) < lengths[:, None]
