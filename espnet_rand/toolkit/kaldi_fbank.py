"""A frontend with Kaldi's features, which sherpa-onnx and other runtimes compute: `frontend: kaldi_fbank`."""

from typing import Any, Tuple, Type, Union

import humanfriendly
import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.tasks.abs_task import AbsTask
from torch import Tensor
from torchaudio.compliance.kaldi import get_mel_banks

from espnet_rand.options import OptionError, integer, number

NAME = "kaldi_fbank"
#: What sherpa-onnx takes of each recording, in Hz: the lowest frequency, and what is left out below half the rate.
LOW, ABOVE = 20.0, 400.0
PREEMPHASIS = 0.97


class KaldiFbank(AbsFrontend):
    """Log-Mel filter banks of Kaldi (`compute-fbank-feats`), with the options of sherpa-onnx.

    Frames of 25 ms begin every 10 ms. The recording is mirrored at its ends (`snip_edges` false). Each frame loses
    its mean, is pre-emphasized by 0.97 and gets the povey window. Samples are in [-1, 1], as ESPnet reads them.

    Args:
        fs: the rate of the recordings, in Hz, or as "16k"
        n_mels: how many filters
        dither: standard deviation of noise that training adds to each frame's samples; evaluation adds none

    Raises:
        OptionError: an option is not allowed, or is another frontend's
    """

    def __init__(self, fs: Union[int, str] = 16000, n_mels: int = 80, dither: float = 0.0, **others: Any):
        super().__init__()
        if others:
            raise OptionError(
                f"frontend_conf: {NAME} has fs, n_mels and dither alone. Fix: take out {', '.join(others)}"
            )
        self.fs = _rate(fs)
        integer(4)("frontend_conf: n_mels", n_mels)
        number(0, 1)("frontend_conf: dither", dither)
        self.n_mels, self.dither = n_mels, dither
        self.hop_length, self.win_length = self.fs // 100, self.fs // 40
        self.n_fft = 1 << (self.win_length - 1).bit_length()
        window = torch.hann_window(self.win_length, periodic=False).pow(0.85)  # "povey"
        filters, _ = get_mel_banks(n_mels, self.n_fft, self.fs, LOW, -ABOVE, 100.0, -500.0, 1.0)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", torch.nn.functional.pad(filters, (0, 1)).t().contiguous(), persistent=False)

    def output_size(self) -> int:
        """How many numbers a frame has."""
        return self.n_mels

    def forward(self, input: Tensor, input_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the features, (batch, frames, n_mels), zero behind a recording's end, and how many frames each has.

        Args:
            input: (batch, samples), or (batch, samples, channels), of which the first is taken
            input_lengths: (batch,), in samples
        """
        if input.dim() == 3:
            input = input[..., 0]
        lengths = (input_lengths + self.hop_length // 2) // self.hop_length
        frames = self._frames(input, input_lengths, (input.shape[1] + self.hop_length // 2) // self.hop_length)
        if self.training and self.dither:
            frames = frames + self.dither * torch.randn_like(frames)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
        power = torch.fft.rfft((frames - PREEMPHASIS * before) * self.window, self.n_fft).abs().square()
        features = (power @ self.filters).clamp_min(torch.finfo(torch.float32).eps).log()
        behind = torch.arange(features.shape[1], device=input.device) >= lengths[:, None]
        return features.masked_fill(behind[..., None], 0.0), lengths

    def _frames(self, samples: Tensor, lengths: Tensor, count: int) -> Tensor:
        """The samples of `count` frames, (batch, count, win_length).

        Beyond its ends a recording is mirrored, again and again if it is short.
        """
        first = self.hop_length // 2 - self.win_length // 2
        starts = first + self.hop_length * torch.arange(count, device=samples.device)
        place = starts[:, None] + torch.arange(self.win_length, device=samples.device)
        length = lengths.clamp_min(1).to(place)[:, None, None]
        place = place.remainder(2 * length)
        place = torch.minimum(place, 2 * length - 1 - place)
        return samples.gather(1, place.flatten(1)).view(-1, count, self.win_length)


def _rate(fs: Union[int, str]) -> int:
    """A rate in Hz; frames of 10 ms must be whole samples.

    Raises:
        OptionError: it is not allowed
    """
    try:
        rate = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
    except humanfriendly.InvalidSize:
        rate = None
    if isinstance(rate, bool) or not isinstance(rate, int) or rate not in range(4000, 96001, 200):
        raise OptionError(
            f"frontend_conf: fs: {fs!r} is not allowed for {NAME}, it must be the rate of the recordings in Hz, from "
            "4000 to 96000 in steps of 200, such as 16000 or 16k"
        )
    return rate


def offer(task: Type[AbsTask]) -> None:
    """Let a task that has frontends take this one."""
    for choices in vars(task).get("class_choices_list", []):
        if choices.name == "frontend" and choices.base_type is AbsFrontend:
            choices.classes[NAME] = KaldiFbank
