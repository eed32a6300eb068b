"""ESPnet's frontend and normalization for one recording, without the masks of batches."""

import math
from typing import Any

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from torch import Tensor, nn


def misfit(model: Any) -> str:
    """Why the features of a model cannot be written; empty if they can."""
    frontend, normalize = model.frontend, model.normalize
    if frontend is not None and type(frontend) is not DefaultFrontend:
        return f"frontend {type(frontend).__name__} (only ESPnet's default, or none, which takes features)"
    if frontend is not None and frontend.stft is None:
        return "frontend with apply_stft: false"
    if getattr(getattr(frontend, "frontend", None), "use_wpe", False):
        return "frontend with use_wpe"
    if getattr(getattr(frontend, "frontend", None), "use_beamformer", False):
        return "frontend with use_beamformer"
    if normalize is not None and type(normalize) not in (GlobalMVN, UtteranceMVN):
        return f"normalize {type(normalize).__name__}"
    return ""


class Features(nn.Module):
    """Speech (1, samples) -> normalized features (1, frames, bands). Without a frontend it takes features.

    Args:
        model: one that has no `misfit`
    """

    def __init__(self, model: Any):
        super().__init__()
        self.frontend, self.normalize = model.frontend, model.normalize
        if model.frontend is not None:
            self.waves = _waves(model.frontend.stft)

    def forward(self, x: Tensor) -> Tensor:
        if self.frontend is not None:
            x = self._bands(x)
        if isinstance(self.normalize, GlobalMVN):
            mean, std = self.normalize.mean.to(x.dtype), self.normalize.std.to(x.dtype)
            x = x - mean if self.normalize.norm_means else x
            x = x / std if self.normalize.norm_vars else x
        elif self.normalize is not None:
            centred = x - x.mean(1, keepdim=True)
            if self.normalize.norm_means:
                x = centred
            if self.normalize.norm_vars:
                x = x / centred.pow(2).mean(1, keepdim=True).sqrt().clamp(min=self.normalize.eps)
        return x

    def _bands(self, speech: Tensor) -> Tensor:
        stft = self.frontend.stft
        if stft.center:
            speech = nn.functional.pad(speech, (stft.n_fft // 2, stft.n_fft // 2), mode="reflect")
        # (torch's transform has complex numbers, whose sizes the exporter does not know; ONNX's STFT is less exact
        # where n_fft is no power of two)
        spectrum = nn.functional.conv1d(speech[:, None], self.waves, stride=stft.hop_length)
        real, imaginary = spectrum.transpose(1, 2).chunk(2, dim=2)
        power = real.pow(2) + imaginary.pow(2)
        return self.frontend.logmel(power / stft.n_fft if stft.normalized else power)[0]


def _waves(stft: Any) -> Tensor:
    """The windowed cosines, and then sines, of a transform, (2 * frequencies, 1, n_fft)."""
    frequencies = stft.n_fft // 2 + 1 if stft.onesided else stft.n_fft
    periods = torch.arange(frequencies)[:, None] * torch.arange(stft.n_fft) % stft.n_fft
    angles = periods.double() * (2 * math.pi / stft.n_fft)
    return (torch.cat([angles.cos(), angles.sin()]) * _window(stft)).float().unsqueeze(1)


def _window(stft: Any) -> Tensor:
    """The window of a transform, (n_fft,): a shorter one stands in the middle of zeros, as in torch.stft."""
    window = torch.ones(stft.win_length)
    if stft.window is not None:
        window = getattr(torch, f"{stft.window}_window")(stft.win_length)
    left = (stft.n_fft - stft.win_length) // 2
    return nn.functional.pad(window, (left, stft.n_fft - stft.win_length - left))
