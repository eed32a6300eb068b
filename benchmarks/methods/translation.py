"""The task that translates: a small Transformer on the help of an office program, English into German."""

import functools
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List

import torch
from measures import bleu
from task import Sentence, Task
from torch import Tensor, nn

from espnet_rand.kaldi import read_lines


class Help(Task):
    """The recipe's float model, trained on; half an epoch of its training. Its measure is BLEU."""

    espnet_task = "mt.MTTask"
    recipe = "libreoffice_help/mt1"
    made_by = 'run.sh --stop_stage 4 --systems "float: {train: conf/train_mt.yaml}"'
    config = "exp/float/config.yaml"
    data = "data"
    checkpoint = "exp/float/valid.loss.ave.pth"
    batch_size = 2500  # tokens of both languages, with what fills them up
    steps = 290
    grad_clip = 1.0
    rates = (0.0001, 0.0003, 0.001)
    float_rate = 0.0003
    logits = "decoder"
    half = True
    calibration = 1000
    decoded = 64  # sentences at a time

    def _read(self, name: str) -> List[Sentence]:
        directory = self.directory / self.data / name
        sources, texts = (read_lines(directory / file) for file in ("text.src", "text"))
        return [
            Sentence(key, text, self._preprocess(key, {"src_text": sources[key], "text": text}))
            for key, text in texts.items()
        ]

    def batches(self, sentences: List[Sentence]) -> List[List[Sentence]]:
        """Batches of sentences of like length, the longest first."""
        found: List[List[Sentence]] = []
        longest = 0
        for sentence in sorted(sentences, key=_tokens, reverse=True):
            if not found or longest * (len(found[-1]) + 1) > self.batch_size:
                found.append([])
                longest = _tokens(sentence)
            found[-1].append(sentence)
        return found

    def decode(self, model: nn.Module, sentences: List[Sentence]) -> List[str]:
        """Decode greedily, at most twice as many tokens as the source has, as the recipe does."""
        from espnet2.text.build_tokenizer import build_tokenizer

        tokenizer = build_tokenizer("bpe", self.directory / self._args.bpemodel)
        device = next(model.parameters()).device
        ordered = sorted(sentences, key=_tokens)
        said = {}
        for start in range(0, len(ordered), self.decoded):
            batch = ordered[start : start + self.decoded]
            data = self.batch(batch, device)
            for sentence, row in zip(batch, _greedy(model, data["src_text"], data["src_text_lengths"])):
                said[sentence.key] = tokenizer.tokens2text([model.token_list[i] for i in row])
        return [said[sentence.key] for sentence in sentences]

    @torch.no_grad()
    def score(self, model: nn.Module, sentences: List[Sentence]) -> Dict[str, Any]:
        """BLEU, chrF, and each sentence's counts."""
        return bleu([sentence.said for sentence in sentences], self.decode(model, sentences))


def _tokens(sentence: Sentence) -> int:
    return len(sentence.features["src_text"]) + len(sentence.features["text"])


def _greedy(model: nn.Module, source: Tensor, lengths: Tensor) -> Iterator[List[int]]:
    """The tokens of each translation, without the one that ends it."""
    memory, lengths = model.encode(source, lengths)
    steps = torch.arange(memory.shape[1], device=memory.device)
    mask = (steps < lengths[:, None])[:, None]  # (batch, 1, tokens)
    ids = torch.full((len(memory), 1), model.sos, device=memory.device)
    ended = torch.zeros(len(memory), dtype=torch.bool, device=memory.device)
    kept = None
    with _computed_once(model.decoder, memory):
        for step in range(2 * int(lengths.max())):
            seen = torch.ones(1, step + 1, step + 1, dtype=torch.bool, device=memory.device).tril()
            scores, kept = model.decoder.forward_one_step(ids, seen, memory, mask, cache=kept)
            new = scores.argmax(1).where(~ended, model.eos)
            ended |= (new == model.eos) | (step + 2 > 2 * lengths)
            ids = torch.cat([ids, new[:, None]], 1)
            if ended.all():
                break
    for row in ids[:, 1:].tolist():
        row = row[: row.index(model.eos)] if model.eos in row else row
        yield [i for i in row if i != 0]


@contextmanager
def _computed_once(decoder: nn.Module, memory: Tensor) -> Iterator[None]:
    """Let the cross attentions give the keys and values of one memory, which they compute now."""
    layers = [layer for block in decoder.decoders for layer in (block.src_attn.linear_k, block.src_attn.linear_v)]
    for layer in layers:
        layer.forward = functools.partial(lambda kept, _: kept, layer(memory))
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
