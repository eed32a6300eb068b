"""The tasks of the comparison: a recipe's model and data, in memory.

A recipe gives the configuration and the data directories; its stages 1 to 4 must have been run
(egs2/mini/asr1: `--corpus_size bench`, the system `float`; egs2/prompts/asr1, egs2/amazon_queen/asr1: any system).
"""

import argparse
import functools
import hashlib
import os
import sys
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Dict, Iterator, List, Optional, Tuple

import jiwer
import numpy as np
import soundfile
import torch
import yaml
from torch import Tensor, nn

from espnet_rand.kaldi import read_lines

ROOT = Path(__file__).resolve().parents[2]
Batch = Dict[str, Tensor]


class TaskError(RuntimeError):
    """Something that a recipe makes is not there."""


@dataclass(frozen=True)
class Sentence:
    """An utterance: what was said, and the model's input (`speech`: samples, `text`: token numbers)."""

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
    unlabelled: Optional[str] = None  # data directory below egs2/ with further audio, of another recipe
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
        from espnet2.tasks.asr import ASRTask
        from espnet2.train.collate_fn import CommonCollateFn

        self._asr = ASRTask
        options = yaml.safe_load((self.directory / self.config).read_text())
        self._args = argparse.Namespace(**{**ASRTask.get_default_config(), **options})
        with chdir(self.directory):
            self._preprocess = ASRTask.build_preprocess_fn(self._args, False)
            self._collate = CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)
            self.train, self.dev, self.test = (self._read(name) for name in ("train", "dev", "test"))

    def prepare(self) -> None:
        """Prepare what must be there before ESPnet is imported."""

    def _read(self, name: str) -> List[Sentence]:
        directory = self.directory / self.data / name
        texts = read_lines(directory / "text")
        return [self._sentence(key, path, texts[key]) for key, path in read_lines(directory / "wav.scp").items()]

    def _sentence(self, key: str, path: str, text: str) -> Sentence:
        samples, _ = soundfile.read(path, dtype="float32")
        return Sentence(key, text, self._preprocess(key, {"speech": samples, "text": text}))

    @torch.no_grad()
    def heard_by(self, teacher: nn.Module) -> List[Sentence]:
        """Unlabelled sentences of another recipe, twice as many as of this one's, with what the teacher hears there."""
        if self.unlabelled is None:
            raise TaskError(f"{self.recipe} has no unlabelled audio. Fix: take another task")
        found = list(read_lines(ROOT / "egs2" / self.unlabelled / "wav.scp").items())
        part = found[:: max(len(found) // (2 * len(self.train)), 1)]
        sentences = [self._sentence(key, path, "") for key, path in part]
        return [self._sentence(*own, said) for own, said in zip(part, self.decode(teacher.eval(), sentences))]

    def build(self, scratch: bool = False) -> nn.Module:
        """The float model: with the weights that fine-tuning starts from, or with new ones."""
        with chdir(self.directory):
            model = self._asr.build_model(self._args)
            if not (self.loads_itself or scratch):
                model.load_state_dict(torch.load(self.checkpoint, weights_only=True))
        return model

    def batch(self, sentences: List[Sentence], device: torch.device) -> Batch:
        """The model's arguments."""
        _, batch = self._collate([(s.key, s.features) for s in sentences])
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def batches(self, sentences: List[Sentence]) -> List[List[Sentence]]:
        """Batches of sentences of like length."""
        ordered = sorted(sentences, key=lambda s: len(s.features["speech"]))
        return [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]

    def decode(self, model: nn.Module, sentences: List[Sentence]) -> List[str]:
        """Decode: what the model hears in each sentence."""
        raise NotImplementedError

    def clean(self, text: str) -> str:
        """The text as it is scored."""
        return text

    @torch.no_grad()
    def loss(self, model: nn.Module, sentences: List[Sentence]) -> float:
        """The loss: the mean of the batches."""
        device = next(model.parameters()).device
        losses = [model(**self.batch(batch, device))[0].item() for batch in self.batches(sentences)]
        return sum(losses) / len(losses)

    @torch.no_grad()
    def errors(self, model: nn.Module, sentences: List[Sentence]) -> Dict[str, List[int]]:
        """The numbers of words and word errors of each sentence."""
        words, errors = [], []
        for sentence, heard in zip(sentences, self.decode(model, sentences)):
            result = jiwer.process_words(self.clean(sentence.said), self.clean(heard))
            words.append(result.hits + result.substitutions + result.deletions)
            errors.append(result.substitutions + result.deletions + result.insertions)
        return {"words": words, "errors": errors}


class Mini(Task):
    """The digits Conformer, CTC, decoded greedily."""

    recipe = "mini/asr1"
    made_by = 'run.sh --corpus_size bench --systems "float train conf/train_asr.yaml -" --stop_stage 4'
    config = "exp/bench/float/config.yaml"
    data = "data/bench"
    checkpoint = "exp/bench/float/valid.loss.ave.pth"
    batch_size = 12
    steps = 252  # 3 epochs
    scratch_steps = 756
    grad_clip = 5.0
    rates = (0.0005, 0.001, 0.002, 0.004)
    float_rate = 0.001
    logits = "ctc.ctc_lo"

    def decode(self, model, sentences):
        device = next(model.parameters()).device
        heard = {}
        for batch in self.batches(sentences):
            data = self.batch(batch, device)
            encoded, lengths = model.encode(data["speech"], data["speech_lengths"])
            for sentence, row, length in zip(batch, model.ctc.argmax(encoded).tolist(), lengths.tolist()):
                ids = [now for before, now in zip([0, *row], row[:length]) if now not in (0, before)]
                heard[sentence.key] = "".join(model.token_list[i] for i in ids).replace("<space>", " ")
        return [heard[sentence.key] for sentence in sentences]


class Whisper(Task):
    """Whisper tiny.en, decoded greedily, as its recipes do."""

    made_by = "run.sh --stop_stage 4 --seeds '' --whisper_checkpoint downloads/tiny.en.pt"
    config = "exp/float/config.yaml"
    data = "data"
    checkpoint = "downloads/tiny.en.pt"
    loads_itself = True
    grad_clip = 1.0
    logits = "decoder"
    decoded = 64  # sentences at a time

    def prepare(self):
        os.environ["WHISPER_CHECKPOINT"] = str(self.directory / self.checkpoint)
        sys.path.insert(0, str(self.directory / "local"))
        import whisper_local  # noqa: F401

    def decode(self, model, sentences):
        """Decode greedily, at most 40 tokens. (The sentences to decode are all filled up to 12 seconds.)"""
        from espnet2.text.build_tokenizer import build_tokenizer
        from espnet2.text.whisper_token_id_converter import OpenAIWhisperTokenIDConverter

        tokenizer = build_tokenizer("whisper_en", "whisper_en")
        converter = OpenAIWhisperTokenIDConverter(model_type="whisper_en")
        primer = list(converter.tokenizer.sot_sequence_including_notimestamps)
        device = next(model.parameters()).device
        heard = {}
        for start in range(0, len(sentences), self.decoded):
            batch = sentences[start : start + self.decoded]
            data = self.batch(batch, device)
            encoded, _ = model.encode(data["speech"], data["speech_lengths"])
            ids = torch.tensor([primer] * len(batch), device=device)
            ended = torch.zeros(len(batch), dtype=torch.bool, device=device)
            with _keys_and_values_kept(model.decoder.decoders) as kept:
                new = ids
                for _ in range(40):
                    new = model.decoder.decoders(new, encoded, kv_cache=kept)[:, -1].argmax(1)
                    ended |= new == model.eos
                    if ended.all():
                        break
                    new = new.where(~ended, model.eos)[:, None]
                    ids = torch.cat([ids, new], 1)
            for sentence, row in zip(batch, ids[:, len(primer) :].tolist()):
                row = [i for i in row if i not in (0, model.eos)]
                heard[sentence.key] = tokenizer.tokens2text(converter.ids2tokens(row))
        return [heard[sentence.key] for sentence in sentences]

    @functools.cached_property
    def clean(self):
        from espnet2.text.cleaner import TextCleaner

        return TextCleaner("whisper_en")


@contextmanager
def _keys_and_values_kept(decoder: nn.Module) -> Iterator[Dict]:
    """Let Whisper's decoder take only new tokens in a block, by openai-whisper's own cache."""
    from whisper.model import Whisper as OpenAIWhisper

    model = SimpleNamespace(decoder=decoder, dims=SimpleNamespace(n_text_ctx=len(decoder.positional_embedding)))
    kept, hooks = OpenAIWhisper.install_kv_cache_hooks(model)
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


class Prompts(Whisper):
    """Whisper on Asterisk's prompts: one speaker, little to learn from and little to test on."""

    recipe = "prompts/asr1"
    batch_size = 8
    steps = 196  # 4 epochs
    rates = (0.00003, 0.0001, 0.0003)
    float_rate = 0.00003
    unlabelled = "amazon_queen/asr1/data/train"


class PromptsHalf(Prompts):
    """The same, trained in bfloat16: 2.3 times as fast on processors that have it (AVX512_BF16)."""

    half = True


class Queen(Whisper):
    """Whisper on the dialogues of a game: actors, ten times as much of both."""

    recipe = "amazon_queen/asr1"
    batch_size = 16
    steps = 801  # 3 epochs
    rates = (0.00001, 0.00003, 0.0001)
    float_rate = 0.00001


class QueenHalf(Queen):
    """The same, trained in bfloat16: half the time on processors that have it (AVX512_BF16), 25 minutes a training."""

    half = True


TASKS = {"mini": Mini, "prompts": Prompts, "prompts_bf16": PromptsHalf, "queen": Queen, "queen_bf16": QueenHalf}
