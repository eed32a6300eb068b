"""Weight norm, w = g v / ||v||: layers get w as their parameter, and are saved and loaded as g and v all the same."""

from typing import Any, Dict, NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm


class Norm(NamedTuple):
    """The weight norm of a layer's `weight`: the names of g and v in a checkpoint, and the axis that g has."""

    g: str
    v: str
    dim: int

    def weight(self, state: Dict[str, Any], prefix: str, like: Tensor) -> Optional[Tensor]:
        """Take g and v out of a state_dict; return the weight. None: they are not there, or do not fit one as `like`.

        Args:
            prefix: what the names of the layer's parameters begin with
        """
        g, v = state.get(prefix + self.g), state.get(prefix + self.v)
        if g is None or v is None or v.shape != like.shape or g.shape != self.norms(like).shape:
            return None
        del state[prefix + self.g], state[prefix + self.v]
        return torch.where(self.norms(v) == 0, v, torch._weight_norm(v, g, self.dim))

    def norms(self, weight: Tensor) -> Tensor:
        """The norms g of a weight or of v, in the shape that a checkpoint has them."""
        return torch.norm_except_dim(weight, 2, self.dim)


def find_norm(module: nn.Module) -> Optional[Norm]:
    """The weight norm of a layer, of either of torch's kinds; None: it has none, or other parametrizations, too."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return Norm("weight_g", "weight_v", hook.dim)
    if parametrize.is_parametrized(module, "weight"):
        parametrizations: Any = module.parametrizations
        steps = parametrizations["weight"]
        if len(parametrizations) == len(steps) == 1 and isinstance(steps[0], _WeightNorm):
            return Norm("parametrizations.weight.original0", "parametrizations.weight.original1", steps[0].dim)
    return None


def fold(module: nn.Module) -> None:
    """Give a layer that has weight norm the weight that it computes as its parameter; `folded` knows it then."""
    norm = find_norm(module)
    if parametrize.is_parametrized(module):  # torch's own way would change the class, which copies share
        weight = nn.Parameter(torch.Tensor.detach(module.weight))
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        module.register_parameter("weight", weight)
    else:
        nn.utils.remove_weight_norm(module)
    module._folded_norm = norm


def folded(module: nn.Module) -> Optional[Norm]:
    """The weight norm that `fold` took out of a layer; None: there was none."""
    return vars(module).get("_folded_norm")
