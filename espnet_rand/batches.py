"""Keeps the batch of a forward, to compute with it once more."""

from typing import Any, Callable, Dict, List, Tuple

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

Batch = Tuple[Tuple, Dict[str, Any]]


def copied(batch: Any) -> Any:
    """Copy the tensors in a forward's arguments: feature normalization and masking write into them."""
    return tree_map_only(Tensor, Tensor.clone, batch)


def keep_batch(model: nn.Module, when: Callable[[nn.Module], bool]) -> List[Batch]:
    """A list that holds the arguments of the model's forward, as they were before it, for hooks that come after it.

    The list is empty in forwards of which `when` says no.
    """
    kept: List[Batch] = []

    def keep(model: nn.Module, *batch: Any) -> None:
        kept[:] = [copied(batch)] if when(model) else []

    model.register_forward_pre_hook(keep, with_kwargs=True)
    return kept
