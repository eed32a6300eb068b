"""Refuses numbers that are not finite, by the names of the tensors that have them."""

from typing import Mapping, Optional

import torch
from torch import Tensor, nn

from espnet_rand.errors import NotFiniteError, few

_SHOWN = 3


def check_finite(state: Mapping[str, Tensor], model: nn.Module, prefix: str = "") -> None:
    """Check a state_dict before a newly built model gets it, in the dtypes of the model.

    Buffers may have infinite numbers where the model's own have the same, as masks do. A tensor that the model lacks,
    or has in another shape, may have infinite numbers as well: it is not loaded, or by another name.

    Args:
        state: the tensors
        prefix: what the model's names begin with in `state`

    Raises:
        NotFiniteError: other numbers are infinite or NaN
    """
    own = {prefix + name: tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    wrong = [name for name, tensor in state.items() if name.startswith(prefix) and not _allowed(tensor, own.get(name))]
    if wrong:
        raise NotFiniteError(
            f"not finite (NaN or infinite): numbers in {few(wrong, _SHOWN)}. The training that wrote them diverged, or "
            "the file is damaged. Fix: take the checkpoint of an earlier epoch"
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite; True for a tensor on meta, and for what is no tensor."""
    if not isinstance(tensor, Tensor) or tensor.is_meta:
        return True
    return bool(_wide(tensor).isfinite().all())


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in a dtype in which torch knows finite numbers: it does not for floats of 8 bits."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _allowed(tensor: Tensor, own: Optional[Tensor]) -> bool:
    """Whether the model may get a tensor in place of its `own` (None: it lacks it); see `check_finite`."""
    if not isinstance(own, Tensor) or not isinstance(tensor, Tensor) or own.shape != tensor.shape:
        return is_finite(tensor) or not _wide(tensor).isnan().any()
    if own.is_floating_point() and tensor.is_floating_point():
        tensor = tensor.to(own.dtype)
    if is_finite(tensor):
        return True
    if isinstance(own, nn.Parameter) or own.is_meta:
        return False
    wrong = ~tensor.isfinite()
    return torch.equal(tensor[wrong].cpu(), own.to(tensor.dtype).cpu()[wrong.cpu()])
