"""A model that learns in seconds to name the tones of a melody."""

from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch

from tests.toolkit.tasks import FRONTEND, write_config

RATE = 16000
TONES = {"do": 400.0, "re": 700.0, "mi": 1200.0, "fa": 2000.0}
TOKENS = ["<blank>", "<unk>", *TONES, "<sos/eos>"]
MODEL = {
    **FRONTEND,
    "encoder": "transformer",
    "encoder_conf": {"output_size": 32, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "dropout_rate": 0.0},
    "decoder": None,
    "decoder_conf": {},
    "model_conf": {"ctc_weight": 1.0},
    "token_list": TOKENS,
    "token_type": "word",
}


def melody(names: Sequence[str], rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Tones of 0.2 to 0.3 s with pauses of 0.1 to 0.25 s, in some noise; and of each sample, its token."""
    parts, labels = [], []
    for name in names:
        time = np.arange(int(rng.uniform(0.2, 0.3) * RATE)) / RATE
        pause = int(rng.uniform(0.1, 0.25) * RATE)
        parts += [0.3 * np.sin(2 * np.pi * TONES[name] * time), np.zeros(pause)]
        labels += [TOKENS.index(name)] * len(time) + [0] * pause
    samples = np.concatenate(parts)
    return (samples + 0.01 * rng.standard_normal(len(samples))).astype(np.float32), np.array(labels)


def names(count: int, rng: np.random.Generator) -> List[str]:
    return [list(TONES)[i] for i in rng.integers(0, len(TONES), count)]


def train(folder: Path, **more: Any) -> Tuple[Path, Path]:
    """Make config.yaml, with `more` options, and model.pth of a model with CTC; frames learn what is heard in them."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    task, folder = write_config("asr", folder, **MODEL, **more)
    model, _ = task.build_model_from_file(folder / "config.yaml")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(40):
        samples, labels = melody(names(16, rng), rng)
        encoded, _ = model.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        # the hop is 128; a frame of the encoder is four of the frontend's, and looks at three further on
        middles = (np.arange(encoded.size(1)) * 4 + 3) * 128
        loss = torch.nn.functional.cross_entropy(model.ctc.ctc_lo(encoded)[0], torch.from_numpy(labels[middles]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "config.yaml", folder / "model.pth"
