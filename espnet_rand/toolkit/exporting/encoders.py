"""ESPnet's encoders for one recording, without the masks of batches."""

import functools
from typing import Any, Dict, List, Tuple

import torch
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.layers.fastformer import FastSelfAttention
from espnet2.asr.preencoder.linear import LinearProjection
from torch import Tensor, nn

#: Encoders that are written, by the names of their classes.
ENCODERS = {
    kind.__name__: kind for kind in (ConformerEncoder, EBranchformerEncoder, BranchformerEncoder, TransformerEncoder)
}


def misfit(model: Any) -> str:
    """Why the encoder of a model cannot be written; empty if it can."""
    encoder = model.encoder
    if type(encoder) not in ENCODERS.values():
        return f"encoder {type(encoder).__name__} (those that are: {', '.join(ENCODERS)})"
    if model.preencoder is not None and type(model.preencoder) is not LinearProjection:
        return f"preencoder {type(model.preencoder).__name__}"
    if model.postencoder is not None:
        return f"postencoder {type(model.postencoder).__name__}"
    if any(isinstance(module, FastSelfAttention) for module in encoder.modules()):
        return "attention fast_selfattn"
    for option in ("interctc_use_conditioning", "ctc_trim"):
        if getattr(encoder, option, False):
            return f"encoder with {option}"
    return ""


class Encoder(nn.Module):
    """Features (1, frames, bands) -> encoded (1, fewer frames, dimensions).

    Args:
        model: one that has no `misfit`
    """

    def __init__(self, model: Any):
        super().__init__()
        self.preencoder, self.encoder = model.preencoder, model.encoder

    def forward(self, x: Tensor) -> Tensor:
        encoder = self.encoder
        if self.preencoder is not None:
            x, _ = self.preencoder(x, None)
        if isinstance(encoder.embed, (nn.Sequential, nn.Linear)):
            x = encoder.embed(x)
        elif encoder.embed is not None:
            x, _ = encoder.embed(x, None)  # subsampling
        for layer in encoder.encoders:
            x, _ = layer(x, None)
        if isinstance(x, tuple):  # with its positions
            x = x[0]
        return encoder.after_norm(x) if getattr(encoder, "normalize_before", True) else x


def position_tables(module: nn.Module) -> Dict[Any, int]:
    """The modules that hold a table of positions, with the number of frames that it reaches to."""
    parts: List[Any] = [part for part in module.modules() if hasattr(part, "extend_pe") and hasattr(part, "pe")]
    return {part: (part.pe.shape[1] + 1) // 2 if _is_relative(part) else part.pe.shape[1] for part in parts}


def cut_positions(module: nn.Module, frames: int) -> None:
    """Shorten the tables of positions in a module, which are as long at least; they do not grow any more."""
    for part, longest in position_tables(module).items():
        first = longest - frames  # a table of relative positions has the middle one in its middle
        part.pe = (part.pe[:, first : first + 2 * frames - 1] if _is_relative(part) else part.pe[:, :frames]).clone()
        part.extend_pe = _stay
        if _is_relative(part):
            part.forward = functools.partial(_relative, part)


def _is_relative(part: nn.Module) -> bool:
    return type(part).__name__ == "RelPositionalEncoding"  # ESPnet moves its module


def _relative(part: Any, x: Tensor) -> Tuple[Tensor, Tensor]:
    """RelPositionalEncoding.forward by indices: beyond the table they end the run, where a slice would be short."""
    first = part.pe.shape[1] // 2 - x.shape[1] + 1
    places = torch.arange(first, first + 2 * x.shape[1] - 1)
    return x * part.xscale, part.pe.index_select(1, places)


def _stay(*args: Any) -> None:
    """The table stays as it is."""
