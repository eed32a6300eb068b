"""What a task of the comparison is: a recipe's model and data, in memory.

A recipe gives the configuration and the data directories; its stages 1 to 4 must have been run (`made_by`).
"""

import argparse
import hashlib
import importlib
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
import yaml
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
Batch = Dict[str, Tensor]


class TaskError(RuntimeError):
    """Something that a recipe makes is not there."""


@dataclass(frozen=True)
class Sentence:
    """What a model is to say, and its input (`speech`: samples, `src_text`, `text`: token numbers)."""

    key: str
    said: str
    features: Dict[str, np.ndarray]


def fingerprint(checkpoint: Path):
    """SHA-256 of the names and numbers in a checkpoint: torch.save also writes the file's own name into it."""
    digest = hashlib.sha256()
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, tensor in state.get("model_state_dict", state).items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest


class Task:
    """A model, its training, development and test sentences, and how it is decoded.

    Attributes:
        start: digest of the float weights and the schedule; runs with another start are not to be compared

    Raises:
        TaskError: the recipe has not been run
    """

    espnet_task: str  # the class, below espnet2.tasks
    recipe: str  # below egs2/
    made_by: str  # the recipe's command
    config: str  # configuration of the model that the recipe trained
    data: str  # its data directory
    checkpoint: str  # float weights that training starts from
    loads_itself: bool = False  # whether the model loads its weights when it is built
    batch_size: int
    steps: int
    scratch_steps: Optional[int] = None
    warmup: float = 0.1  # part of the steps
    grad_clip: float
    rates: Tuple[float, ...]  # learning rates to choose from
    float_rate: float  # rate of the float model that a second training begins with, the best on the development set
    logits: str  # the module that gives the logits
    states: Tuple[str, ...] = ("encoder",)  # modules whose hidden states are distilled
    calibration: int = 96  # sentences of the training set that calibration computes on, about
    half: bool = False  # whether training computes in bfloat16 (autocast); evaluation never does

    def __init__(self):
        self.directory = ROOT / "egs2" / self.recipe
        for path in (self.config, self.data, self.checkpoint):
            if not (self.directory / path).exists():
                command = f"{self.directory}/{self.made_by}"
                raise TaskError(f"{self.directory / path} is not there. Fix: run {command} first")
        digest = fingerprint(self.directory / self.checkpoint)
        digest.update(repr((self.batch_size, self.steps, self.scratch_steps, self.warmup, self.grad_clip)).encode())
        digest.update(b"bfloat16" * self.half)
        self.start = digest.hexdigest()[:12]
        self.prepare()
        from espnet2.train.collate_fn import CommonCollateFn

        module, _, name = self.espnet_task.rpartition(".")
        self._espnet_task = getattr(importlib.import_module(f"espnet2.tasks.{module}"), name)
        options = yaml.safe_load((self.directory / self.config).read_text())
        self._args = argparse.Namespace(**{**self._espnet_task.get_default_config(), **options})
        with chdir(self.directory):
            self._preprocess = self._espnet_task.build_preprocess_fn(self._args, False)
            self._collate = CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)
            self.train, self.dev, self.test = (self._read(name) for name in ("train", "dev", "test"))

    def prepare(self) -> None:
        """Prepare what must be there before ESPnet is imported."""

    def _read(self, name: str) -> List[Sentence]:
        """Read the sentences of a data directory: train, dev, test."""
        raise NotImplementedError

    def heard_by(self, teacher: nn.Module) -> List[Sentence]:
        """Further sentences, with what the teacher says to them."""
        raise TaskError(f"{self.recipe} has no unlabelled data. Fix: take another task")

    def build(self, scratch: bool = False) -> nn.Module:
        """The float model: with the weights that fine-tuning starts from, or with new ones."""
        with chdir(self.directory):
            model = self._espnet_task.build_model(self._args)
            if not (self.loads_itself or scratch):
                model.load_state_dict(torch.load(self.checkpoint, weights_only=True))
        return model

    def batch(self, sentences: List[Sentence], device: torch.device) -> Batch:
        """The model's arguments."""
        _, batch = self._collate([(s.key, s.features) for s in sentences])
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def batches(self, sentences: List[Sentence]) -> List[List[Sentence]]:
        """Batches of sentences of like length."""
        raise NotImplementedError

    def decode(self, model: nn.Module, sentences: List[Sentence]) -> List[str]:
        """Decode: what the model says to each sentence."""
        raise NotImplementedError

    def score(self, model: nn.Module, sentences: List[Sentence]) -> Dict[str, Any]:
        """What a line of results has of these sentences (measures.py)."""
        raise NotImplementedError

    @torch.no_grad()
    def loss(self, model: nn.Module, sentences: List[Sentence]) -> float:
        """The loss: the mean of the batches."""
        device = next(model.parameters()).device
        losses = [model(**self.batch(batch, device))[0].item() for batch in self.batches(sentences)]
        return sum(losses) / len(losses)
