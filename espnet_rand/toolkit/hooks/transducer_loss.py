"""Stands in for `warprnnt_pytorch`, which ESPnet's transducers import and no registry has, with torchaudio's loss."""

import importlib.util
import logging
import sys

import torch
import torchaudio

from espnet_rand.options import OptionError

_NAME = "warprnnt_pytorch"


def stand_in() -> None:
    """Let `from warprnnt_pytorch import RNNTLoss` find the class below, if that package is missing."""
    if importlib.util.find_spec(_NAME) is None:
        sys.modules[_NAME] = sys.modules[__name__]


class RNNTLoss(torch.nn.Module):
    """The transducer loss (Graves, 2012) of logits, with the arguments of warprnnt_pytorch.RNNTLoss.

    Args:
        blank: index of the blank symbol
        reduction: mean or sum over the batch, or none
        fastemit_lambda: 0; torchaudio's loss has no FastEmit term

    Raises:
        OptionError: FastEmit is asked for
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", fastemit_lambda: float = 0.0):
        super().__init__()
        if fastemit_lambda != 0.0:
            raise OptionError(
                f"fastemit_lambda: {fastemit_lambda} is not possible with torchaudio's rnnt_loss, which stands in for "
                f"{_NAME}. Fix: set it to 0, or install {_NAME}"
            )
        logging.warning(f"espnet_rand: {_NAME} is not installed: the transducer loss is torchaudio's rnnt_loss")
        self.blank = blank
        self.reduction = reduction

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, logit_lengths: torch.Tensor, target_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss in nats: a scalar, or (batch,) for reduction none.

        Args:
            logits: (batch, frames, labels + 1, classes), of any float type; not normalized
            targets: (batch, labels)
            logit_lengths, target_lengths: (batch,); frames and labels may go beyond the longest
        """
        frames, labels = int(logit_lengths.max()), int(target_lengths.max())
        return torchaudio.functional.rnnt_loss(
            logits[:, :frames, : labels + 1].float().contiguous(),
            targets[:, :labels].int().contiguous(),
            logit_lengths.int(),
            target_lengths.int(),
            blank=self.blank,
            reduction=self.reduction,
        )
