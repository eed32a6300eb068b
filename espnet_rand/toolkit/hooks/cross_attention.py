"""Lets Whisper's decoder compute the keys and values of what it hears once for each search.

ESPnet's decoder computes them again for each token: those of 1500 frames, in every layer.
"""

import functools
from contextvars import ContextVar
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder
from torch import Tensor, nn

from espnet_rand.context import setting
from espnet_rand.toolkit.search import BeamSearch


class _Heard(NamedTuple):
    """What a cross attention heard, (frames, values), with its keys and values, likewise."""

    frames: Tensor
    keys: Tensor
    values: Tensor


#: What the search of this thread keeps, by cross attentions; None: none runs. It ends with the search.
_kept: ContextVar[Optional[Dict[nn.Module, _Heard]]] = ContextVar("kept", default=None)


def register() -> None:
    """Let each search that ESPnet makes from now on keep the keys and values of the one recording that it hears.

    Only while it runs, and only in its thread. A search over a batch of recordings goes on as ESPnet has it: it would
    have to keep them for each hypothesis.
    """
    make, search = BeamSearch.__init__, BeamSearch.__call__

    @functools.wraps(make)
    def made(self, *args, **kwargs):
        make(self, *args, **kwargs)
        for scorer in self.full_scorers.values():
            if isinstance(scorer, OpenAIWhisperDecoder):
                _keep_in(scorer)

    @functools.wraps(search)
    def searched(self, *args, **kwargs):
        with setting(_kept, {}):
            return search(self, *args, **kwargs)

    BeamSearch.__init__, BeamSearch.__call__ = made, searched


def _keep_in(decoder: OpenAIWhisperDecoder) -> None:
    """Let the cross attentions of a decoder take what is kept, in searches. Idempotent."""
    for block in decoder.decoders.blocks:
        if _take_kept not in block.cross_attn._forward_pre_hooks.values():
            block.cross_attn.register_forward_pre_hook(_take_kept, with_kwargs=True)


def _take_kept(attention: Any, args: Tuple, kwargs: Dict[str, Any]) -> Optional[Tuple[Tuple, Dict[str, Any]]]:
    """A forward pre-hook of whisper.model.MultiHeadAttention: give it keys and values as its `kv_cache`."""
    kept = _kept.get()
    if kept is None or attention.training or torch.is_grad_enabled():
        return None
    heard = args[1]  # (hypotheses, frames, values)
    if len(heard) > 1 and heard.stride(0):
        return None
    frames = heard[0]  # hypotheses of one recording hear the same memory
    known = kept.get(attention)
    if known is None or _place(known.frames) != _place(frames):
        known = kept[attention] = _Heard(frames, attention.key(frames), attention.value(frames))
    of = {attention.key: known.keys, attention.value: known.values}
    cache = {layer: each.expand(len(heard), *each.shape) for layer, each in of.items()}
    return args, {**kwargs, "kv_cache": cache}


def _place(tensor: Tensor) -> Tuple:
    """The memory of a tensor: as long as it is kept, no other tensor has the same."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()
