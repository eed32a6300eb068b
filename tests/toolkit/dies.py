"""Imported on registration in every process of a test: kills it in the training forward that DIE_IN_FORWARD numbers."""

import os
import signal

from espnet2.asr.espnet_model import ESPnetASRModel

_forward = ESPnetASRModel.forward
_left = int(os.environ["DIE_IN_FORWARD"])


def forward(self, *args, **kwargs):
    global _left
    _left -= self.training
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return _forward(self, *args, **kwargs)


ESPnetASRModel.forward = forward
