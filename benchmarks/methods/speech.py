"""The tasks that hear speech: digits, and Whisper on the prompts of a telephone and on the actors of a game.

(egs2/mini/asr1: `--corpus_size bench`, the system `float`; egs2/prompts/asr1, egs2/amazon_queen/asr1: any system.)
"""

import functools
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional

import jiwer
import soundfile
import torch
from task import ROOT, Sentence, Task
from torch import nn

from espnet_rand.kaldi import read_lines
from espnet_rand.reporting import text_cleaner


class Speech(Task):
    """A recognizer; its measure is the word error rate."""

    espnet_task = "asr.ASRTask"
    unlabelled: Optional[str] = None  # data directory below egs2/ with further audio, of another recipe

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
            return super().heard_by(teacher)
        found = list(read_lines(ROOT / "egs2" / self.unlabelled / "wav.scp").items())
        part = found[:: max(len(found) // (2 * len(self.train)), 1)]
        sentences = [self._sentence(key, path, "") for key, path in part]
        return [self._sentence(*own, said) for own, said in zip(part, self.decode(teacher.eval(), sentences))]

    def batches(self, sentences: List[Sentence]) -> List[List[Sentence]]:
        """Batches of sentences of like length."""
        ordered = sorted(sentences, key=lambda s: len(s.features["speech"]))
        return [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]

    def clean(self, text: str) -> str:
        """The text as it is scored."""
        return text

    @torch.no_grad()
    def score(self, model: nn.Module, sentences: List[Sentence]) -> Dict[str, Any]:
        """The numbers of words and word errors of each sentence."""
        return self.errors(sentences, self.decode(model, sentences))

    def errors(self, sentences: List[Sentence], heard: List[str]) -> Dict[str, Any]:
        """The numbers of words and word errors of each sentence in what was heard."""
        words, errors = [], []
        for sentence, said in zip(sentences, heard):
            result = jiwer.process_words(self.clean(sentence.said), self.clean(said))
            words.append(result.hits + result.substitutions + result.deletions)
            errors.append(result.substitutions + result.deletions + result.insertions)
        return {"words": words, "errors": errors}


class Mini(Speech):
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


class Whisper(Speech):
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

        from espnet_rand.toolkit.hooks import openai_whisper

        openai_whisper.register()

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
        return text_cleaner("whisper_en")


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
    """Whisper on the dialogues of a game: actors, 17 times as much to learn from, 12 times to test on."""

    recipe = "amazon_queen/asr1"
    batch_size = 16
    steps = 801  # 3 epochs
    rates = (0.00001, 0.00003, 0.0001)
    float_rate = 0.00001


class QueenHalf(Queen):
    """The same, trained in bfloat16: half the time on processors that have it (AVX512_BF16), 25 minutes a training."""

    half = True
