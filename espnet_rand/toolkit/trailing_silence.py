"""`trailing_silence`: the silence that OpenAI's Whisper hears behind a recording.

Whisper learned from windows of 30 seconds, most of which end in silence. Where there is none it says its last words
over and over.
"""

import functools
import inspect
import logging
import math
import os
from typing import Any, Dict, NamedTuple, Optional, Tuple, Union

import torch
from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder
from espnet2.asr.encoder.whisper_encoder import OpenAIWhisperEncoder
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from espnet_rand.environment import TRAILING_SILENCE, seconds
from espnet_rand.options import OptionError
from espnet_rand.toolkit import launcher

_RATE = 16000  # Whisper's, in Hz


def launcher_seconds() -> Optional[float]:
    """The seconds that `espnet-rand --trailing_silence` gives, if any. Raises OptionError as `seconds` does."""
    return launcher.option(TRAILING_SILENCE, functools.partial(seconds, TRAILING_SILENCE))


def build(original: Any, args: Any) -> torch.nn.Module:
    """Build a model by a task's `build_model`, which is `original`, with the silence that `args` give, if any.

    Raises:
        OptionError: see `environment.seconds`; or the model hears by no Whisper encoder
    """
    given = getattr(args, "trailing_silence", None)
    if given is None:
        vars(args).pop("trailing_silence", None)
        return original(args)
    silence = seconds("trailing_silence", given)
    model = original(args)
    _put(model, silence, given)
    return model


def apply(model: torch.nn.Module, trained: Any) -> None:
    """Let a model that was built from files hear as much silence as is asked for, or as it was trained with.

    Where its configuration does not say how much, it is `full` for Whisper with its own decoder. Models with another
    decoder, such as CTC, hear what they are given, and so do models that pad by themselves (do_pad_trim of
    encoder_conf).

    Raises:
        OptionError: `espnet-rand --trailing_silence` is off, or the model hears by no Whisper encoder
    """
    silence = launcher_seconds()
    if silence is not None:
        _put(model, silence, os.environ[TRAILING_SILENCE])
    elif getattr(trained, "trailing_silence", None) is None and isinstance(
        getattr(model, "decoder", None), OpenAIWhisperDecoder
    ):
        _put(model, math.inf)


def silence_behind(encoder: Any, samples: int) -> int:
    """The samples of silence that an encoder hears behind a recording of so many, which has none of its own."""
    if (hook := getattr(encoder, "_trailing_silence", None)) is not None:
        return hook.fill.length(encoder, samples) - samples
    return max(0, encoder.pad_samples - samples) if getattr(encoder, "do_pad_trim", False) else 0


def seconds_of_a_frame(encoder: torch.nn.Module) -> Optional[float]:
    """The length of a Whisper encoder's frame, in seconds; None: it is another encoder."""
    if not isinstance(encoder, OpenAIWhisperEncoder):
        return None
    return encoder.hop_length * encoder.encoders.conv2.stride[0] / _RATE


def _put(model: torch.nn.Module, silence: float, given: Union[str, float, None] = None) -> None:
    """Let a model's Whisper encoders hear silence, in seconds; `given`: as a user wrote it, None: nobody asked."""
    encoders = [module for module in model.modules() if isinstance(module, OpenAIWhisperEncoder)]
    if given is not None and not encoders:
        raise OptionError(
            f"trailing_silence: {given} is given, but the model does not hear by a Whisper encoder. Fix: leave it out"
        )
    for encoder in encoders:
        if encoder.do_pad_trim and given is None:
            continue
        encoder.do_pad_trim = False
        if (before := vars(encoder).get("_trailing_silence")) is not None:
            before.handle.remove()
        fill = _Fill(silence)
        encoder._trailing_silence = _Hook(fill, encoder.register_forward_pre_hook(fill, with_kwargs=True))
        much = f"up to {encoder.pad_samples / _RATE:g} s" if math.isinf(silence) else f"{silence:g} s"
        logging.info(f"espnet_rand: silence that Whisper hears behind each recording: {much}")


class _Fill:
    """A forward pre-hook of ESPnet's Whisper encoder that puts `seconds` of zeros behind each recording.

    Zeros that are there count. A recording as long as the encoder hears stays as it is.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, encoder: OpenAIWhisperEncoder, args: Tuple, kwargs: Dict[str, Any]) -> Tuple[Tuple, Dict]:
        given = inspect.signature(encoder.forward).bind(*args, **kwargs).arguments
        samples, lengths = given["xs_pad"], given["ilens"]  # (batch, samples), (batch,)
        places = torch.arange(samples.size(1) + 1, device=samples.device)
        ends = places.where(pad(samples != 0, (1, 0)) & (places <= lengths[:, None]), 0).amax(1).tolist()
        filled = [max(length, self.length(encoder, end)) for length, end in zip(lengths.tolist(), ends)]
        given["ilens"] = lengths.new_tensor(filled)
        given["xs_pad"] = pad(samples, (0, max(samples.size(1), *filled) - samples.size(1)))
        return (), given

    def length(self, encoder: OpenAIWhisperEncoder, samples: int) -> int:
        """The samples of a recording with the silence, where it has none yet."""
        room = encoder.pad_samples
        return max(samples, room if math.isinf(self.seconds) else min(room, samples + round(self.seconds * _RATE)))


class _Hook(NamedTuple):
    """What fills a Whisper encoder's recordings, and the handle to remove it by."""

    fill: _Fill
    handle: RemovableHandle
