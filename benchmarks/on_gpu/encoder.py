"""A Transformer encoder of Whisper's sizes, in plain torch."""

from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: width, blocks, heads; frames of its input, which are twice those of its output
SIZES = {
    "dry": (64, 1, 2, 16),
    "tiny": (384, 4, 6, 3000),
    "base": (512, 6, 8, 3000),
    "large": (1280, 32, 20, 3000),
}
BANDS = 80
Past = Tuple[Tensor, Tensor]


class Block(nn.Module):
    """Self-attention and two linear layers, each behind a norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, past: Optional[Past] = None) -> Tuple[Tensor, Past]:
        """From frames (batch, frames, width), and the keys and values of those before, to frames, keys and values."""
        y = self.attention_norm(x)
        q, k, v = (
            map_(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for map_ in (self.query, self.key, self.value)
        )
        if past is not None:
            k, v = (torch.cat(both, 2) for both in zip(past, (k, v)))
        heard = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(heard.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.norm(x)))), (k, v)


class Encoder(nn.Module):
    """Two convolutions, and blocks."""

    def __init__(self, size: str):
        super().__init__()
        width, blocks, heads, _ = SIZES[size]
        self.first = nn.Conv1d(BANDS, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """From features (batch, BANDS, frames) to (batch, frames / 2, width)."""
        x = F.gelu(self.second(F.gelu(self.first(features)))).transpose(1, 2)
        for block in self.blocks:
            x, _ = block(x)
        return self.norm(x)

    def one_by_one(self, frames: Tensor) -> Tensor:
        """The blocks alone, which get one frame after another, (batch, frames, width); the last output."""
        pasts: List[Optional[Past]] = [None] * len(self.blocks)
        for frame in frames.split(1, 1):
            x = frame
            for i, block in enumerate(self.blocks):
                x, pasts[i] = block(x, pasts[i])
        return self.norm(x)
