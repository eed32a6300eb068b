"""Imported on registration in every process of a test: notes, once a process, what its model computes with."""

import atexit
import os
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_rand.layers import quantized_layers

_forward = ESPnetASRModel.forward


def forward(self, *args, **kwargs):
    if self.training:
        layers = quantized_layers(self)
        noisy = self.ctc.ctc_lo.weight.double().sum().item()
        Path(os.environ["SPY_DIRECTORY"], f"spied.{os.getpid()}").write_text(f"{len(layers)} {noisy!r}")
    return _forward(self, *args, **kwargs)


ESPnetASRModel.forward = forward


@atexit.register
def leave():
    """ESPnet leaves the process group to the end of the process, where torch's threads now and then abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
