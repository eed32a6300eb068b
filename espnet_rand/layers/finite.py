"""Refuses numbers that are not finite, by the names of the tensors that have them."""

from typing import Mapping, Optional

import torch
from torch import Tensor, nn

from espnet_rand.errors import NotFiniteError

_SHOWN = 3


def check_finite(state: Mapping[str, Tensor], model: nn.Module, prefix: str = "") -> None:
    """Check a state_dict before a newly built model gets it.

    Buffers may have infinite numbers where the model's own have the same, as masks do.

    Args:
        state: the tensors; names that the model lacks are checked as parameters
        prefix: what the model's names begin with in it

    Raises:
        NotFiniteError: other numbers are infinite or NaN
    """
    buffers = {prefix + name: buffer for name, buffer in model.named_buffers(remove_duplicate=False)}
    wrong = [
        name for name, tensor in state.items() if name.startswith(prefix) and not _allowed(tensor, buffers.get(name))
    ]
    if wrong:
        few = ", ".join(wrong[:_SHOWN]) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
        raise NotFiniteError(
            f"not finite (NaN or infinite): numbers in {few}. The training that wrote them diverged, or the file is "
            "damaged. Mend: take the checkpoint of an earlier epoch"
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are; True of one without numbers, and of what else a state_dict holds."""
    numbers = isinstance(tensor, Tensor) and not tensor.is_meta
    return not numbers or bool(tensor.isfinite().all())


def _allowed(tensor: Tensor, buffer: Optional[Tensor]) -> bool:
    if is_finite(tensor):
        return True
    wrong = ~tensor.isfinite()
    if buffer is None or buffer.is_meta or buffer.shape != tensor.shape:
        return False
    return torch.equal(tensor[wrong].cpu(), buffer.to(tensor.dtype).cpu()[wrong.cpu()])
