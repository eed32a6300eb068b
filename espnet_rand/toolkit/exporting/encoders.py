"""ESPnet's encoders for one recording, without the masks of batches."""

import functools
from typing import Any, Dict, List, Tuple, Union

import torch
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.layers.fastformer import FastSelfAttention
from espnet2.asr.preencoder.linear import LinearProjection
from espnet2.asr_transducer.encoder.blocks.branchformer import Branchformer
from espnet2.asr_transducer.encoder.blocks.conformer import Conformer
from espnet2.asr_transducer.encoder.blocks.ebranchformer import EBranchformer
from espnet2.asr_transducer.encoder.encoder import Encoder as BlockEncoder
from torch import Tensor, nn

#: Encoders that are written, by the names of their classes.
ENCODERS = {
    kind.__name__: kind for kind in (ConformerEncoder, EBranchformerEncoder, BranchformerEncoder, TransformerEncoder)
}


def misfit(model: Any) -> str:
    """Why the encoder of a model cannot be written; empty if it can."""
    encoder = model.encoder
    if type(encoder) is BlockEncoder:
        return _misfit_of_blocks(encoder)
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


def _misfit_of_blocks(encoder: BlockEncoder) -> str:
    if encoder.dynamic_chunk_training:
        return "encoder with dynamic_chunk_training"
    known = (Conformer, Branchformer, EBranchformer)
    odd = [type(block).__name__ for block in encoder.encoders.blocks if type(block) not in known]
    return (
        f"encoder with a block {odd[0]} (those that are: {', '.join(kind.__name__ for kind in known)})" if odd else ""
    )


def make(model: Any) -> nn.Module:
    """The encoder of a model that has no `misfit`: features (1, frames, bands) -> (1, fewer frames, dimensions)."""
    return Blocks(model.encoder) if type(model.encoder) is BlockEncoder else Encoder(model)


class Blocks(nn.Module):
    """The encoder of the task asr_transducer."""

    def __init__(self, encoder: BlockEncoder):
        super().__init__()
        self.encoder = encoder
        for block in encoder.encoders.blocks:
            if hasattr(block, "self_att"):
                block.self_att.rel_shift = _shift

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.encoder.embed(x, None)
        positions, mask = self.encoder.pos_enc(x), torch.zeros(1, x.shape[1], dtype=torch.bool)
        for block in self.encoder.encoders.blocks:
            x, mask, positions = block(x, positions, mask)
        return self.encoder.encoders.norm_blocks(x)


def _shift(x: Tensor, left_context: int = 0) -> Tensor:
    """(1, heads, frames, 2 * frames - 1), by relative positions, to (1, heads, frames, frames): without strides."""
    _, heads, frames, places = x.shape
    x = nn.functional.pad(x, (1, 0)).view(1, heads, places + 1, frames)
    return x[:, :, 1:].reshape(1, heads, frames, places)[..., :frames]


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


def _relative(part: Any, x: Tensor) -> Union[Tensor, Tuple[Tensor, Tensor]]:
    """RelPositionalEncoding.forward by indices: beyond the table they end the run, where a slice would be short.

    (That of the task asr_transducer gives positions alone.)
    """
    first = part.pe.shape[1] // 2 - x.shape[1] + 1
    places = torch.arange(first, first + 2 * x.shape[1] - 1)
    positions = part.pe.index_select(1, places)
    return (x * part.xscale, positions) if hasattr(part, "xscale") else positions


def _stay(*args: Any) -> None:
    """The table stays as it is."""
