"""A tiny, random and packed Whisper model, as ESPnet names its tensors."""

import pytest
import torch
from torch import nn

import espnet_rand
from espnet_rand.packing import pack_model

whisper = pytest.importorskip("whisper")
RATE, STATE = 16000, 64
HEADS = {"n_audio_head": 1, "n_text_head": 1}


def model(vocabulary=51864, mels=80):
    """OpenAI's model below the names that ESPnet gives it."""
    torch.manual_seed(0)
    sizes = {f"n_{side}_{name}": n for side in ("audio", "text") for name, n in (("state", STATE), ("layer", 1))}
    dims = whisper.model.ModelDimensions(
        n_mels=mels, n_audio_ctx=1500, n_vocab=vocabulary, n_text_ctx=448, **sizes, **HEADS
    )
    made = whisper.model.Whisper(dims).requires_grad_(False)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    outer = nn.Module()
    outer.encoder, outer.decoder = nn.Module(), nn.Module()
    outer.encoder.encoders, outer.decoder.decoders = made.encoder, made.decoder
    outer.dims = dims
    return outer


def packed(options, bits=None, info=None, exclude=("*conv*",), **sizes):
    """That model, rounded and packed."""
    made = model(**sizes)
    config = {"quantizer": "absmax", "quantizer_conf": {"exclude": [*exclude], **options}}
    espnet_rand.quantize(made, config)
    if bits is not None:
        espnet_rand.set_eval_bits(made, bits)
    return pack_model(made, {"whisper": {**HEADS} if info is None else info})


def decoded(packed_model, **sizes):
    """OpenAI's model with the decoded weights of a packed one."""
    made = model(**sizes)
    made.load_state_dict(packed_model.state_dict())
    whole = whisper.model.Whisper(made.dims)
    whole.encoder, whole.decoder = made.encoder.encoders, made.decoder.decoders
    return whole.eval()


def sound(seconds=1.0):
    """Noise, float32."""
    return (0.1 * torch.randn(round(RATE * seconds), generator=torch.Generator().manual_seed(0))).numpy()
