"""OpenAI's Whisper, tiny and random, in ESPnet's encoder and decoder."""

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

whisper = pytest.importorskip("whisper")
RATE = 16000
DIMS = {f"n_{part}_{name}": value for part in ("audio", "text") for name, value in [("state", 8), ("head", 2)]}
DIMS.update(n_mels=80, n_audio_ctx=1500, n_audio_layer=1, n_vocab=30, n_text_ctx=448, n_text_layer=1)
TOKENS = [
    "<|startoftranscript|>",
    "<eos>",
    "<|nospeech|>",
    *"abcdefghijklmnopqrstuvwxy",
    "<space>",
    "<unk>",
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """whisper_model: local is a tiny model, the same each time."""

    def load_model(*args, **kwargs):
        torch.manual_seed(0)
        model = whisper.model.Whisper(whisper.model.ModelDimensions(**DIMS))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        return model

    monkeypatch.setattr(whisper, "load_model", load_model)
    monkeypatch.setitem(whisper._MODELS, "local", "")


def write(folder, encoder_conf=(), **more):
    """config.yaml of a training of that model."""
    part = {"whisper_model": "local"}
    config = {"encoder": "whisper", "encoder_conf": {**part, **dict(encoder_conf)}, "decoder": "whisper"}
    config.update(decoder_conf=part, model_conf={"ctc_weight": 0.0, "sym_sos": TOKENS[0], "sym_eos": "<eos>"})
    config.update(token_list=TOKENS, frontend=None, normalize=None, input_size=1, preprocessor="default", **more)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**ASRTask.get_default_config(), "token_type": "char", **config}))
    return path


def noise(*seconds):
    """A batch of recordings, (batch, samples), and their lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([round(RATE * s) for s in seconds])
    sounds = [0.1 * torch.randn(int(n), generator=generator) for n in lengths]
    return torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True), lengths
