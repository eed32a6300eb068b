"""Weights of another model, put into a model, with an account of what fits and what does not."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import chain
from typing import Any, Callable, Collection, Dict, Iterable, List, Mapping, Optional, Tuple

import torch
from torch import Tensor

from espnet_rand.errors import UserError, few
from espnet_rand.layers import SCALE_SUFFIX, Kinds, Settled, check_finite, own_scales, settle

#: What ESPnet's S3PRL frontend called its network, and calls it now.
_UPSTREAM = ("frontend.upstream.model.", "frontend.upstream.upstream.model.")
_SHOWN = 5


class PretrainedError(UserError, ValueError):
    """What is given as a pretrained model is none, or does not fit; the message names it and the fix."""


@dataclass(frozen=True)
class Fit:
    """How the weights of a checkpoint fitted a model, by the model's names.

    Attributes:
        tensors: loaded ones, and how many the model has
        numbers: the same, counted in numbers
        missing: keys of the model that the checkpoint lacks
        unexpected: keys of the checkpoint that the model lacks
        reshaped: keys of both, with the shape in the checkpoint and that in the model
        scales: what became of the checkpoint's learned scales
    """

    tensors: Tuple[int, int]
    numbers: Tuple[int, int]
    missing: List[str]
    unexpected: List[str]
    reshaped: Dict[str, Tuple[torch.Size, torch.Size]]
    scales: Settled

    @property
    def reused(self) -> str:
        """How many weights were taken over, and what a user has to know of the learned scales."""
        (tensors, all_tensors), (numbers, all_numbers) = self.tensors, self.numbers
        reused = f"{tensors} of {all_tensors} tensors ({numbers:,} of {all_numbers:,} numbers) are reused"
        return "; ".join(filter(None, (reused, str(self.scales))))

    def misfits(self, vocabularies: Collection[int] = ()) -> str:
        """What does not fit; empty where all does.

        Args:
            vocabularies: sizes of the model's token lists: tensors that differ only where the model has one are told
                as such
        """
        lists = {key: old for key, shapes in self.reshaped.items() if (old := _old_sizes(*shapes, vocabularies))}
        others = [f"{k} ({_shape(a)}, not {_shape(b)})" for k, (a, b) in self.reshaped.items() if k not in lists]
        old = ", ".join(str(size) for size in sorted(set().union(*lists.values())))
        said = [
            (f"with the token list (another size: {old})", [*lists]),
            ("of another shape", others),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
        ]
        return "; ".join(f"{len(keys)} {what}: {few(keys, _SHOWN)}" for what, keys in said if keys)


def fit(
    module: torch.nn.Module,
    state: Mapping[str, Tensor],
    left_out: Callable[[str], bool] = lambda key: False,
    kinds: Optional[Kinds] = None,
) -> Fit:
    """Load what fits of a state_dict into a module: the rest of the module stays as it was.

    Keys that ESPnet renamed since are loaded by its own hooks. Learned scales that the checkpoint has not, or has of
    another quantizer, start from the weights, and do not count.

    Args:
        module: the model, or a part of it
        state: the weights, by the module's names
        left_out: keys of the module that `state` lacks on purpose
        kinds: what the checkpoint's learned scales are that do not say it themselves

    Raises:
        NotFiniteError: weights are NaN or infinite
    """
    own = _tensors(module)
    renamed = ((k if k in own or (new := k.replace(*_UPSTREAM)) not in own else new, v) for k, v in state.items())
    ours: Any = OrderedDict(renamed)
    check_finite(ours, module)
    scales = settle(ours, own_scales(module), kinds)
    # the module's own, as with ESPnet's init_param: that of the checkpoint counts the forwards of another training
    own_state: Any = module.state_dict()
    ours._metadata = own_state._metadata
    reshaped = {}

    def set_aside(child, state_dict, prefix, *_):
        """Runs after the child's own hooks, which rename old keys."""
        for name, tensor in chain(child._parameters.items(), child._buffers.items()):
            found = state_dict.get(prefix + name)
            if tensor is not None and found is not None and found.shape != tensor.shape:
                reshaped[prefix + name] = (found.shape, tensor.shape)
                del state_dict[prefix + name]

    hooks = [child.register_load_state_dict_pre_hook(set_aside) for child in module.modules()]
    try:
        missing, unexpected = module.load_state_dict(ours, strict=False)
    finally:
        for hook in hooks:
            hook.remove()
    # asked for anew: a hook may have changed the module, as HiFiGAN's drops its weight norm
    weights = {key: tensor for key, tensor in _tensors(module).items() if not key.endswith(SCALE_SUFFIX)}
    loaded = {key: tensor for key, tensor in weights.items() if key not in set(missing)}
    return Fit(
        (len(loaded), len(weights)),
        (_numbers(loaded.values()), _numbers(weights.values())),
        [key for key in missing if key not in reshaped and not left_out(key)],
        unexpected,
        reshaped,
        scales,
    )


def _tensors(module: torch.nn.Module) -> Dict[str, Tensor]:
    return {k: v for k, v in module.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}


def _numbers(tensors: Iterable[Tensor]) -> int:
    """Tied tensors count once."""
    return sum({id(tensor): tensor.numel() for tensor in tensors}.values())


def _old_sizes(old: torch.Size, new: torch.Size, vocabularies: Collection[int]) -> Collection[int]:
    """The sizes in `old` where it differs from `new`, if those in `new` are of vocabularies; else empty."""
    if len(old) != len(new):
        return ()
    different = [(a, b) for a, b in zip(old, new) if a != b]
    return {a for a, _ in different} if all(b in vocabularies for _, b in different) else ()


def _shape(size: torch.Size) -> str:
    return "x".join(map(str, size)) or "one number"
