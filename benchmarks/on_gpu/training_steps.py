"""Training steps of an encoder, float and quantized, in float32 or in bfloat16 by autocast."""

import copy
import statistics
from typing import Dict

import torch
from encoder import BANDS, SIZES, Encoder
from qat_step import peak_memory, step
from results import Results
from torch import Tensor, nn

import espnet_rand


def _rand(**options) -> dict:
    return {"quantizer": "rand", "quantizer_conf": {"bits": 4, "init": "norm", **options}}


_GROUPS = {"granularity": "group", "group_size": 32}
METHODS = {
    "float": None,
    "rand mode 3, ste, a channel": _rand(mode=3, estimator="ste"),
    "rand mode 3, ste, groups of 32": _rand(mode=3, estimator="ste", **_GROUPS),
    "rand mode 2, noise, a channel": _rand(mode=2, estimator="pqn"),
    "rand mode 2, noise, groups of 32": _rand(mode=2, estimator="pqn", **_GROUPS),
}


class _Loss(nn.Module):
    """A loss of the encoder's outputs, as `qat_step.step` wants it: first of a tuple."""

    def __init__(self, encoder: Encoder, dtype: str):
        super().__init__()
        self.encoder, self._dtype = encoder, getattr(torch, dtype)

    def forward(self, speech: Tensor):
        with torch.autocast(speech.device.type, self._dtype, enabled=self._dtype != torch.float32):
            y = self.encoder(speech)
        return (y.float().square().mean(),)


def run(results: Results, device: str, size: str, dtype: str) -> bool:
    """Measure the methods that have no result, round by round beside float; return whether all have one then."""
    names = {method: f"{size} {dtype} {method}" for method in METHODS}
    wanted = [method for method in METHODS if not results.has("training", names[method])]
    rounds, batch = (3, 2) if device == "cpu" else (25, 16)
    torch.manual_seed(0)
    stock, runs = Encoder(size), {}
    data = {"speech": torch.randn(batch, BANDS, SIZES[size][3], device=device)}
    for method in {"float": 0, **dict.fromkeys(wanted)}:
        with results.keeping_errors("training", names[method]):
            model = _Loss(copy.deepcopy(stock), dtype)
            if METHODS[method]:
                espnet_rand.quantize(model, METHODS[method])
            model.to(device).train()
            made = model, torch.optim.Adam(model.parameters(), lr=1e-5)
            for _ in range(3):
                step(*made, data)
            runs[method] = made
    times: Dict[str, list] = {method: [] for method in runs}
    for _ in range(rounds):
        for method, made in runs.items():
            times[method].append(step(*made, data))
    for method in (method for method in wanted if method in runs):
        with results.keeping_errors("training", names[method]):
            ratios = [t / f for t, f in zip(times[method], times["float"])]
            spread = {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            ms = 1000 * statistics.median(times[method])
            peak = peak_memory(*runs[method], data) if data["speech"].is_cuda else None
            results.add("training", names[method], case=[size, dtype, method], ms=ms, peak=peak, **spread)
    return all(results.has("training", name) for name in names.values())
