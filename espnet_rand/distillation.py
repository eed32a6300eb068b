"""Distillation: training that imitates a float model, its outputs and hidden states, with or without the labels."""

import dataclasses
import functools
import inspect
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from espnet_rand.batches import keep_batch
from espnet_rand.errors import UserError
from espnet_rand.options import OptionError, Options, number, option


@dataclasses.dataclass(frozen=True)
class Distillation(Options):
    """The weights of the terms whose sum is the loss of a distilled model.

    Attributes:
        labels: weight of the model's own loss, by the labels
        outputs: weight of the Kullback-Leibler divergence from the teacher's outputs, in nats, summed over a sentence
            (Hinton et al., arXiv 1503.02531, with temperature 1)
        states: weight of the squared error of hidden states, in parts of the teacher's sum of squares (FitNets, arXiv
            1412.6550, Eq. 3, without the regressor)

    Raises:
        OptionError: a weight is negative, or no number of at most a million; nothing of the teacher counts
    """

    labels: float = option(0.0, number(0, 1e6))
    outputs: float = option(1.0, number(0, 1e6))
    states: float = option(40.0, number(0, 1e6))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.outputs + self.states:
            raise OptionError("outputs: 0 and states: 0 are not allowed together: nothing of the teacher would count")


def distill(
    model: nn.Module,
    teacher: nn.Module,
    weights: Distillation,
    outputs: Mapping[str, float],
    states: Sequence[str],
    lengths: Optional[str] = None,
) -> None:
    """Let the training forwards of a model return the loss of imitating a teacher.

    The teacher computes with the same batch, in evaluation mode. The statistics get two more, `outputs` and `states`.
    The lengths, (batch,), that tell padding are those that a module returns behind its tensor, or gets in the argument
    `lengths`; a module without them has those of the states of its shape.

    Args:
        model: returns (loss, statistics, weight)
        teacher: a model of the same architecture; it is frozen, and moves to the model's device
        outputs: names of modules that give logits or log-probabilities, (batch, frames or tokens, ..., classes), alone
            or first in a tuple -> weights of their divergences
        states: names of modules that give hidden states, (batch, frames, features), in the same way
        lengths: name of the argument, if any, in which modules get the lengths of what they give

    Raises:
        UserError: (in a forward) a module was not called, or its outputs have other shapes than the teacher's
    """
    teacher.eval().requires_grad_(False)
    given, wanted = (_keep_outputs(whole, [*outputs, *states], model, lengths) for whole in (model, teacher))
    batch = keep_batch(model, lambda model: model.training)

    def forget(*_: Any) -> None:
        for calls in (*given.values(), *wanted.values()):
            calls.clear()

    def imitate(model: nn.Module, inputs: Any, output: Any) -> Optional[Tuple[Tensor, Dict, Tensor]]:
        if not model.training:
            return None
        args, kwargs = batch.pop()
        with torch.no_grad():
            like = next(model.parameters())
            teacher.to(like.device, like.dtype)(*args, **kwargs)
        _check_shapes(given, wanted, type(model).__name__)
        terms = _terms(given, wanted, outputs, states)
        forget()
        return _with_terms(output, terms, weights)

    model.register_forward_pre_hook(forget)  # tensors that a failed forward has left
    model.register_forward_hook(imitate)


def _keep_outputs(
    whole: nn.Module, names: Sequence[str], model: nn.Module, lengths: Optional[str]
) -> Dict[str, List[Any]]:
    """Lists, by name, to which modules of `whole` append their tensors and lengths while `model` trains."""
    kept: Dict[str, List[Any]] = {name: [] for name in names}

    def keep(calls: List[Any], module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if model.training:
            inputs = {**dict(zip(inspect.signature(module.forward).parameters, args)), **kwargs}
            calls.append(_unpacked(output, inputs.get(lengths)))

    for name, calls in kept.items():
        whole.get_submodule(name).register_forward_hook(functools.partial(keep, calls), with_kwargs=True)
    return kept


def _with_terms(output: Tuple, terms: Mapping[str, Tensor], weights: Distillation) -> Tuple[Tensor, Dict, Tensor]:
    """The model's (loss, statistics, weight) with the terms in its loss and among its statistics."""
    loss, statistics, weight = output
    statistics = {**statistics, **{name: term.detach().reshape(1) for name, term in terms.items()}}
    total = sum(getattr(weights, name) * term for name, term in terms.items()).reshape(loss.shape)
    return total + weights.labels * loss if weights.labels else total, statistics, weight


def _check_shapes(given: Mapping[str, List[Any]], wanted: Mapping[str, List[Any]], model: str) -> None:
    """Raises UserError: a module gave nothing, or its outputs have other shapes than the teacher's."""
    for name in given:
        ours, theirs = ([tuple(tensor.shape) for tensor, _ in kept[name]] for kept in (given, wanted))
        if not ours or ours != theirs:
            raise UserError(
                f"teacher: {name} gave outputs of shapes {ours} in a forward, the teacher's {theirs}: "
                f"{model} can't be distilled with these options"
            )


def _terms(
    given: Mapping[str, List[Any]],
    wanted: Mapping[str, List[Any]],
    outputs: Mapping[str, float],
    states: Sequence[str],
) -> Dict[str, Any]:
    """The terms of the loss, by the names of Distillation, from what the modules gave in a forward."""
    frames = {h.shape[:2]: lengths for name in states for h, lengths in given[name]}
    terms = {"outputs": sum(n * _mean(divergence, given[name], wanted[name], frames) for name, n in outputs.items())}
    if states:
        terms["states"] = sum(_mean(relative_error, given[name], wanted[name], frames) for name in states)
    return terms


def _mean(
    error: Callable, given: List[Any], wanted: List[Any], frames: Mapping[torch.Size, Optional[Tensor]]
) -> Tensor:
    """The mean error of a module's calls: intermediate CTC computes with one layer several times.

    Args:
        frames: lengths for tensors that come without them, by (batch, frames)
    """
    errors = [
        error(ours, theirs, frames.get(ours.shape[:2]) if lengths is None else lengths)
        for (ours, lengths), (theirs, _) in zip(given, wanted)
    ]
    return sum(errors) / len(errors)


def divergence(given: Tensor, wanted: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
    """The divergence KL(wanted || given), in nats: summed over frames or tokens, the mean of sentences.

    Args:
        given, wanted: logits or log-probabilities, (batch, frames or tokens, classes), or (batch, frames, labels,
            classes) of a lattice, in which the mean of a frame's labels is summed
        lengths: (batch,), in frames or tokens; None: all count
    """
    ours, theirs = given.float().log_softmax(-1), wanted.float().log_softmax(-1)
    each = nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    each = each.flatten(2).mean(2) if each.dim() > 2 else each
    return (each * _inside(each, lengths)).sum() / len(each)


def relative_error(given: Tensor, wanted: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
    """The squared error of hidden states, (batch, frames, features), in parts of the sum of squares of those wanted.

    Args:
        lengths: (batch,), in frames; None: all count
    """
    inside = _inside(wanted, lengths)[:, :, None]
    return ((given.float() - wanted.float()).square() * inside).sum() / (wanted.float().square() * inside).sum()


def _unpacked(output: Any, given: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
    """The tensor that a module gives, and its lengths, (batch,): those behind it, or those that the module got."""
    behind: List[Any] = []
    while not isinstance(output, Tensor):
        output, *further = output
        behind = [*further, *behind]
    lengths = (one for one in behind if isinstance(one, Tensor) and one.shape == output.shape[:1])
    return output, next(lengths, given)


def _inside(tensor: Tensor, lengths: Optional[Tensor]) -> Tensor:
    """A mask, (batch, frames), that is false for padding; without lengths nothing is padding."""
    if lengths is None:
        return tensor.new_ones(tensor.shape[:2])
    return torch.arange(tensor.shape[1], device=tensor.device) < lengths[:, None]
