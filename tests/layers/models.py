"""Models that several tests quantize."""

import copy

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from espnet_rand import quantize
from espnet_rand.layers import quantized_weights


class Net(nn.Module):
    """One layer of each family; the output layer shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 11)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        x = self.conv(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        x, _ = self.rnn(x)
        x = x + self.attention(x, x, x)[0]
        return self.out(self.norm(x))


class Blocks(nn.Module):
    """Two blocks, the second run twice: plain, or with gradient checkpointing."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.3), nn.Tanh(), nn.Linear(12, 6))
        self.reentrant = reentrant

    def _run(self, block, x):
        return block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)

    def forward(self, x):
        x = self._run(self.first, x)
        x = self._run(lambda y: self.second(y) + self.first(y), x)
        return self._run(self.second, x)


class Steps(nn.Module):
    """A cell that runs once for each step of its input."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x):
        state = None
        for frame in x:
            state = self.cell(frame, state)
        return state[0]


def tensors(output):
    """The tensors of a nested output, in a list."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [t for part in output or () for t in tensors(part)]


def rounded(stock, report, config, channels_first=lambda w: w, own_layout=lambda w: w):
    """A copy of the float model whose weights are decode(encode(weight))."""
    copied = copy.deepcopy(stock)
    quantizer = config.weight_quantizer([])
    with torch.no_grad():
        for entry in report.quantized:
            weight = copied.get_parameter(entry.name)
            scale = quantizer.initial(channels_first(weight))
            scale = None if scale is None else scale.to(weight.dtype)
            weight.copy_(own_layout(quantizer.decode(*quantizer.encode(channels_first(weight), scale), weight.dtype)))
    return copied


def quantized(stock, config):
    """A quantized copy of the float model, and the report."""
    model = copy.deepcopy(stock)
    return model, quantize(model, config)


def scale_names(model):
    """The names of the learned scales of a model, by those of their weights."""
    weights = quantized_weights(model).values()
    return {full: full + weight.quantized.scale_suffix for weight in weights for full in weight.full_names}


def descend(model, x, rate=0.1):
    """One step of gradient descent."""
    model(x).square().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
