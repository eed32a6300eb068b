"""Lets Whisper's decoder compute each token of a search once, and what it hears once for each search.

ESPnet's decoder computes all tokens of a text again for each new one, and with each of them the keys and values of 1500
frames, in every layer.
"""

import functools
import itertools
from contextvars import ContextVar
from typing import Any, Dict, List, Optional, Tuple

import torch
from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder
from torch import Tensor, nn

from espnet_rand.context import setting
from espnet_rand.toolkit.search import BeamSearch

#: Keys and values by the layers that compute them, as whisper.model.MultiHeadAttention takes them.
_Cache = Dict[nn.Module, Tensor]
#: What a hypothesis of ESPnet holds of a step: its number, and the hypothesis's place in it. ESPnet keeps it for long.
_State = Tuple[int, int]
#: Numbers of steps: each is given once, since ESPnet's online search hands states on to the next search.
_numbers = itertools.count()


class _Kept:
    """What a search keeps of a decoder.

    Args:
        frames: what is heard, (1, frames, values)

    Attributes:
        caches: keys and values of that for the cross attention of each block, likewise
        steps: by the numbers of steps the keys, values of all tokens in each block, (hypotheses, tokens, values)
    """

    def __init__(self, decoder: OpenAIWhisperDecoder, frames: Tensor):
        self.frames = frames
        attentions = [block.cross_attn for block in decoder.decoders.blocks]
        self.caches: List[_Cache] = [{layer: layer(frames) for layer in (one.key, one.value)} for one in attentions]
        self.steps: Dict[int, List[Tensor]] = {}

    def are_known(self, states: List[Optional[_State]], tokens: int) -> bool:
        """Whether the keys and values of so many tokens are kept for all states; if not, none are from now on."""
        sizes = {number: told[0].size(1) for number, told in self.steps.items()}
        known = all(state is not None and sizes.get(state[0]) == tokens for state in states)
        # a search goes on from the step before; of this step there may be others, where hypotheses come one by one
        self.steps = {number: self.steps[number] for number, size in sizes.items() if known and size >= tokens}
        return known

    def add(self, told: List[Tensor]) -> List[_State]:
        """Keep the keys and values of a step, and return the states of its hypotheses."""
        number = next(_numbers)
        self.steps[number] = told
        return [(number, place) for place in range(len(told[0]))]


#: What the search of this thread keeps, by decoders; None: none runs. It ends with the search.
_kept: ContextVar[Optional[Dict[nn.Module, _Kept]]] = ContextVar("kept", default=None)


def register() -> None:
    """Let Whisper's decoder keep what it computed of the one recording that a search of ESPnet hears.

    Only while the search runs, and only in its thread. A search over a batch of recordings goes on as ESPnet has it: it
    would have to keep keys and values of what is heard for each hypothesis.
    """
    search, score, batch_score = BeamSearch.__call__, OpenAIWhisperDecoder.score, OpenAIWhisperDecoder.batch_score

    @functools.wraps(search)
    def searched(self, *args, **kwargs):
        with setting(_kept, {}):
            return search(self, *args, **kwargs)

    @functools.wraps(score)
    def scored(self, ys, state, x):
        if not _keeps(self, ys[None], x[None]):
            return score(self, ys, state, x)
        scores, states = _step(self, ys[None], [state], x[None])
        return scores[0], states[0]

    @functools.wraps(batch_score)
    def batch_scored(self, ys, states, xs):
        return _step(self, ys, states, xs) if _keeps(self, ys, xs) else batch_score(self, ys, states, xs)

    BeamSearch.__call__ = searched
    OpenAIWhisperDecoder.score, OpenAIWhisperDecoder.batch_score = scored, batch_scored


def _keeps(decoder: OpenAIWhisperDecoder, ys: Tensor, xs: Tensor) -> bool:
    """Whether a search runs in which `_step` gives the scores of ESPnet's decoder.

    Args:
        ys: the tokens so far, (hypotheses, tokens)
        xs: what is heard, (hypotheses, frames, values)
    """
    if _kept.get() is None or decoder.training or torch.is_grad_enabled():
        return False
    one = len(xs) == 1 or not xs.stride(0)  # hypotheses of one recording hear the same memory
    fits = ys.size(1) <= len(decoder.decoders.positional_embedding)
    own = type(decoder).forward_one_step is OpenAIWhisperDecoder.forward_one_step
    parts = [part for block in decoder.decoders.blocks for part in (block, block.attn)]
    return one and fits and own and not any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def _step(
    decoder: OpenAIWhisperDecoder, ys: Tensor, states: List[Optional[_State]], xs: Tensor
) -> Tuple[Tensor, List[_State]]:
    """Score the next token, as OpenAIWhisperDecoder.batch_score does.

    Args:
        ys: the tokens so far, (hypotheses, tokens)
        states: of each hypothesis, as the step before returned them; None: there was none
        xs: what is heard, (hypotheses, frames, values)

    Returns:
        log-probabilities, (hypotheses, vocabulary), and the states with the last token
    """
    whisper, kept = decoder.decoders, _kept_of(decoder, xs[:1])
    done = ys.size(1) - 1
    if not kept.are_known(states, done):
        done = 0
    x = whisper.token_embedding(ys[:, done:]) + whisper.positional_embedding[done : ys.size(1)]
    x = x.to(xs.dtype)
    told: List[Tensor] = []
    for block, cache in zip(whisper.blocks, kept.caches):
        normed, attention = block.attn_ln(x), block.attn
        pair = [attention.key(normed), attention.value(normed)]
        if done:
            pasts = (torch.stack([kept.steps[n][len(told) + i][place] for n, place in states]) for i in range(2))
            pair = [torch.cat((past, new), dim=1) for past, new in zip(pasts, pair)]
        x = x + attention.out(attention.qkv_attention(attention.query(normed), *pair, whisper.mask)[0])
        asked = block.cross_attn_ln(x).flatten(0, 1)[None]  # one recording answers all hypotheses
        x = x + block.cross_attn(asked, kept.frames, kv_cache=cache)[0].view_as(x)
        x = x + block.mlp(block.mlp_ln(x))
        told += pair
    last = whisper.ln(x)[:, -1]
    scores = (last @ whisper.token_embedding.weight.to(last.dtype).T).float()
    return torch.log_softmax(scores, dim=-1), kept.add(told)


def _kept_of(decoder: OpenAIWhisperDecoder, frames: Tensor) -> _Kept:
    """What this search keeps of a decoder that hears frames, (1, frames, values)."""
    all_kept: Any = _kept.get()
    known = all_kept.get(decoder)
    if known is None or _place(known.frames[0]) != _place(frames[0]):
        known = all_kept[decoder] = _Kept(decoder, frames)
    return known


def _place(tensor: Tensor) -> Tuple:
    """The memory of a tensor: as long as it is kept, no other tensor has the same."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()
