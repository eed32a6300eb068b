"""The batch of a forward, to compute it once more."""

from typing import Any, Callable, Dict, List, Tuple

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

Batch = Tuple[Tuple, Dict[str, Any]]


def copied(batch: Any) -> Any:
    """A forward's arguments with copies of their tensors: feature normalization and masking write into them."""
    return tree_map_only(Tensor, Tensor.clone, batch)


def keep_batch(model: nn.Module, when: Callable[[nn.Module], bool]) -> List[Batch]:
    """A list that holds the arguments of the model's forward, as they were before it, for hooks that come after it.

    In forwards of which `when` says no it is empty.
    """
    kept: List[Batch] = []

    def keep(model: nn.Module, *batch: Any) -> None:
        kept[:] = [copied(batch)] if when(model) else []

    model.register_forward_pre_hook(keep, with_kwargs=True)
    return kept
