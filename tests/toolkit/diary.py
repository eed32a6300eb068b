"""Imported in every process of a test: writes down each training forward of ESPnet's ASR model, a line of JSON."""

import hashlib
import json
import os
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

#: Environment variable with the directory of the diaries, one for each rank. Without it nothing is written.
DIRECTORY = "DIARY_DIRECTORY"

_forward = ESPnetASRModel.forward


def _digest(*tensors):
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()


def forward(self, *args, **kwargs):
    result = _forward(self, *args, **kwargs)
    if self.training and DIRECTORY in os.environ:
        with torch.no_grad():
            weight = _digest(self.ctc.ctc_lo.weight)
        line = {"utterances": list(kwargs["utt_id"]), "parameters": _digest(*self.parameters()), "weight": weight}
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        with Path(os.environ[DIRECTORY], f"rank{rank}").open("a") as f:
            print(json.dumps(line), file=f)
    return result


def read(directory, rank=0):
    """The lines of one rank."""
    return [json.loads(line) for line in Path(directory, f"rank{rank}").read_text().splitlines()]


ESPnetASRModel.forward = forward
