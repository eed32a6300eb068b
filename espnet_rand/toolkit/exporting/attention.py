"""ESPnet's attention decoder as a graph of one step, with the keys and values of the steps before.

Those of the encoded speech are in the graph that encodes it: they are computed once.
"""

import math
from typing import Any, Dict, Tuple

import torch
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from torch import Tensor, nn

from espnet_rand.toolkit.exporting import encoders
from espnet_rand.toolkit.exporting.features import Features


def misfit(decoder: Any) -> str:
    """Why a decoder cannot be written; empty if it can."""
    if type(decoder) is not TransformerDecoder:
        return f"decoder {type(decoder).__name__}"
    if not isinstance(decoder.embed[0], nn.Embedding):
        return "decoder with input_layer linear"
    if decoder.output_layer is None:
        return "decoder with use_output_layer: false"
    if any(layer.concat_after for layer in decoder.decoders):
        return "decoder with concat_after"
    return ""


class Recognizer(nn.Module):
    """Speech (1, samples), or features (1, frames, bands) -> log-probabilities of CTC, if any, and keys and values.

    Log-probabilities are (1, fewer frames, tokens), keys and values (layers, heads, fewer frames, dimensions).
    """

    attentions: Any

    def __init__(self, model: Any):
        super().__init__()
        self.features, self.encoder, self.ctc = Features(model), encoders.make(model), model.ctc
        self.attentions = nn.ModuleList(layer.src_attn for layer in model.decoder.decoders)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.encoder(self.features(x))
        keys = [attention.k_norm(_heads(attention, attention.linear_k(x))) for attention in self.attentions]
        values = [_heads(attention, attention.linear_v(x)) for attention in self.attentions]
        both = torch.cat(keys), torch.cat(values)
        return both if self.ctc is None else (self.ctc.log_softmax(x), *both)


class Step(nn.Module):
    """A token (1, 1), and keys and values of the tokens before and of the speech -> what follows.

    Keys and values are (layers, heads, tokens or frames, dimensions). Out come log-probabilities (1, tokens), and the
    keys and values of tokens with the new one's.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.decoder = model.decoder

    def forward(self, token: Tensor, keys: Tensor, values: Tensor, speech_keys: Tensor, speech_values: Tensor) -> Tuple:
        decoder, grown = self.decoder, []
        x = self._embedded(token, keys.shape[2])
        for number, layer in enumerate(decoder.decoders):
            before, attention = layer.normalize_before, layer.self_attn
            normal = layer.norm1(x) if before else x
            query, key, value = attention.forward_qkv(normal, normal, normal)
            key, value = (torch.cat([old[number : number + 1], new], 2) for old, new in ((keys, key), (values, value)))
            grown.append((key, value))
            x = x + _attend(attention, query, key, value)
            x = x if before else layer.norm1(x)
            normal, attention = layer.norm2(x) if before else x, layer.src_attn
            query = attention.q_norm(_heads(attention, attention.linear_q(normal)))
            speech = (pair[number : number + 1] for pair in (speech_keys, speech_values))
            x = x + _attend(attention, query, *speech)
            x = x if before else layer.norm2(x)
            x = x + layer.feed_forward(layer.norm3(x) if before else x)
            x = x if before else layer.norm3(x)
        x = x[:, -1]
        x = decoder.output_layer(decoder.after_norm(x) if decoder.normalize_before else x)
        return (x.log_softmax(-1), *(torch.cat(parts) for parts in zip(*grown)))

    def _embedded(self, token: Tensor, place: Any) -> Tensor:
        """The embedding of a token at a place, (1, 1, dimensions)."""
        embed, positions = self.decoder.embed
        own = positions.pe.index_select(1, torch.arange(place, place + 1))
        if hasattr(positions, "alpha"):  # ScaledPositionalEncoding
            return embed(token) + positions.alpha * own
        return embed(token) * positions.xscale + own


def cache(decoder: Any, tokens: int, frames: int) -> Dict[str, Tensor]:
    """Keys and values of so many tokens and frames, by the names of a graph's inputs."""
    attention = decoder.decoders[0].self_attn
    lengths = {"keys": tokens, "values": tokens, "speech_keys": frames, "speech_values": frames}
    layers = len(decoder.decoders)
    return {name: torch.zeros(layers, attention.h, length, attention.d_k) for name, length in lengths.items()}


def _heads(attention: Any, x: Tensor) -> Tensor:
    """(1, length, dimensions) -> (1, heads, length, dimensions of a head)."""
    return x.view(1, -1, attention.h, attention.d_k).transpose(1, 2)


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-2, -1) / math.sqrt(attention.d_k)
    return attention.forward_attention(value, scores, None)
