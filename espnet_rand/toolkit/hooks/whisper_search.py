"""Lets Whisper's decoder compute each token of a search once, and what it hears once for each search.

ESPnet's decoder computes all tokens of a text again for each new one, and with each of them the keys and values of 1500
frames, in every layer.
"""

import functools
from contextvars import ContextVar
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder
from torch import Tensor, nn

from espnet_rand.context import setting
from espnet_rand.toolkit.search import BeamSearch

#: Keys and values by the layers that compute them, as whisper.model.MultiHeadAttention takes them.
_Cache = Dict[nn.Module, Tensor]


class _Heard(NamedTuple):
    """What a decoder heard, (1, frames, values), with the keys and values of each block's cross attention, likewise."""

    frames: Tensor
    caches: List[_Cache]


#: What the search of this thread keeps, by decoders; None: none runs. It ends with the search.
_kept: ContextVar[Optional[Dict[nn.Module, _Heard]]] = ContextVar("kept", default=None)


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
        if not _keeps(self, x[None]):
            return score(self, ys, state, x)
        scores, states = _step(self, ys[None], [state], x[None])
        return scores[0], states[0]

    @functools.wraps(batch_score)
    def batch_scored(self, ys, states, xs):
        return _step(self, ys, states, xs) if _keeps(self, xs) else batch_score(self, ys, states, xs)

    BeamSearch.__call__ = searched
    OpenAIWhisperDecoder.score, OpenAIWhisperDecoder.batch_score = scored, batch_scored


def _keeps(decoder: OpenAIWhisperDecoder, xs: Tensor) -> bool:
    """Whether a search runs in which all hypotheses hear the same, (hypotheses, frames, values)."""
    one = len(xs) == 1 or not xs.stride(0)  # hypotheses of one recording hear the same memory
    return _kept.get() is not None and one and not decoder.training and not torch.is_grad_enabled()


def _step(
    decoder: OpenAIWhisperDecoder, ys: Tensor, states: List[Optional[Tensor]], xs: Tensor
) -> Tuple[Tensor, List[Optional[Tensor]]]:
    """Score the next token, as OpenAIWhisperDecoder.batch_score does.

    Args:
        ys: the tokens so far, (hypotheses, tokens)
        states: of each hypothesis the keys and values of all tokens but the last, (2 * layers, tokens - 1, values), as
            the step before returned them; None: they are not known
        xs: what is heard, (hypotheses, frames, values)

    Returns:
        log-probabilities, (hypotheses, vocabulary), and the states with the last token
    """
    whisper = decoder.decoders
    known = [state for state in states if state is not None and state.size(1) == ys.size(1) - 1]
    past = torch.stack(known) if len(known) == len(ys) else None
    done = 0 if past is None else past.size(2)
    x = whisper.token_embedding(ys[:, done:]) + whisper.positional_embedding[done : ys.size(1)]
    x = x.to(xs.dtype)
    heard = _heard(decoder, xs[:1])
    told: List[Tensor] = []
    for layer, (block, cache) in enumerate(zip(whisper.blocks, heard.caches)):
        normed, attention = block.attn_ln(x), block.attn
        pair = [attention.key(normed), attention.value(normed)]
        if past is not None:
            pair = [torch.cat((past[:, 2 * layer + i], new), dim=1) for i, new in enumerate(pair)]
        x = x + attention.out(attention.qkv_attention(attention.query(normed), *pair, whisper.mask)[0])
        asked = block.cross_attn_ln(x).flatten(0, 1)[None]  # one recording answers all hypotheses
        x = x + block.cross_attn(asked, heard.frames, kv_cache=cache)[0].view_as(x)
        x = x + block.mlp(block.mlp_ln(x))
        told += pair
    last = whisper.ln(x)[:, -1]
    scores = (last @ whisper.token_embedding.weight.to(last.dtype).T).float()
    return torch.log_softmax(scores, dim=-1), [*torch.stack(told, dim=1)]


def _heard(decoder: OpenAIWhisperDecoder, frames: Tensor) -> _Heard:
    """What is kept of frames, (1, frames, values), computed where nothing is."""
    kept: Any = _kept.get()
    known = kept.get(decoder)
    if known is None or _place(known.frames[0]) != _place(frames[0]):
        attentions = [block.cross_attn for block in decoder.decoders.blocks]
        caches = [{layer: layer(frames) for layer in (each.key, each.value)} for each in attentions]
        known = kept[decoder] = _Heard(frames, caches)
    return known


def _place(tensor: Tensor) -> Tuple:
    """The memory of a tensor: as long as it is kept, no other tensor has the same."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()
