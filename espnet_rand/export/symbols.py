"""Packed layers as nodes that name their weight, in the graphs that torch.onnx.export makes.

No number of such a weight comes into the graph, so that none is folded, transposed or renamed there.
`espnet_rand.export.onnx` replaces the nodes by operators on the codes.
"""

from types import SimpleNamespace
from typing import Any, Dict, Mapping, Optional, Sequence, Set, Tuple, Type

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from espnet_rand.errors import NotInstalledError
from espnet_rand.export.codes import ExportError
from espnet_rand.packing import PackedModel

#: Of the nodes' operators, which are Linear, Convolution and Lookup.
DOMAIN = "espnet_rand"


class _Symbol(nn.Module):
    """A layer whose weight is a name.

    Args:
        layer: that it stands for
        weight: the weight's name in the packed model
    """

    operator: str

    def __init__(self, layer: Any, weight: str):
        super().__init__()
        self.weight_name, self.bias = weight, getattr(layer, "bias", None)

    def _node(self, x: Tensor, shape: Sequence[Any], **attributes: Any) -> Tensor:
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.operator}",
            (x,),
            {"weight": self.weight_name, **attributes},
            dtype=torch.float32,
            shape=shape,
            version=1,
        )


class SymbolicLinear(_Symbol):
    """A linear layer, (..., inputs) -> (..., outputs)."""

    operator = "Linear"

    def __init__(self, layer: Any, weight: str):
        super().__init__(layer, weight)
        self.outputs = layer.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        y = self._node(x, (*x.shape[:-1], self.outputs))
        return y if self.bias is None else y + self.bias


class SymbolicPointwise(SymbolicLinear):
    """A convolution over one frame, (batch, inputs, frames) -> (batch, outputs, frames)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SymbolicConvolution(_Symbol):
    """A convolution, (batch, inputs, *size) -> (batch, outputs, *size)."""

    operator = "Convolution"

    def __init__(self, layer: Any, weight: str):
        super().__init__(layer, weight)
        self.outputs, self.kernel, self.groups = layer.out_channels, layer.kernel_size, layer.groups
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Tensor) -> Tensor:
        options = zip(x.shape[2:], self.kernel, self.stride, self.padding, self.dilation)
        size = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, padding, dilation in options]
        y = self._node(
            x,
            (x.shape[0], self.outputs, *size),
            strides=[*self.stride],
            pads=[*self.padding, *self.padding],
            dilations=[*self.dilation],
            group=self.groups,
        )
        return y if self.bias is None else y + self.bias.view(-1, *[1] * len(size))


class SymbolicEmbedding(_Symbol):
    """An embedding, integers (...) -> (..., dimensions)."""

    operator = "Lookup"

    def __init__(self, layer: Any, weight: str):
        super().__init__(layer, weight)
        self.dimensions = layer.embedding_dim

    def forward(self, x: Tensor) -> Tensor:
        return self._node(x, (*x.shape, self.dimensions))


class SymbolicRecurrent(nn.Module):
    """One step of an LSTM or a GRU of one layer, called as it: x (1, 1, inputs), state (1, 1, units) or two of them.

    Equations: torch.nn.LSTM, torch.nn.GRU.

    Args:
        layer: that it stands for
        names: of its packed weights, by those of the parameters
    """

    def __init__(self, layer: Any, names: Mapping[str, str]):
        super().__init__()
        self.is_lstm = isinstance(layer, nn.LSTM)
        self.of_input, self.of_state = (
            SymbolicLinear(
                SimpleNamespace(weight=getattr(layer, f"weight_{of}_l0"), bias=getattr(layer, f"bias_{of}_l0", None)),
                names[f"weight_{of}_l0"],
            )
            for of in ("ih", "hh")
        )

    def forward(self, x: Tensor, hx: Any) -> Tuple[Tensor, Any]:
        state = hx[0] if self.is_lstm else hx
        gates, back = self.of_input(x), self.of_state(state)
        if self.is_lstm:
            i, f, g, o = (gates + back).chunk(4, -1)
            cell = f.sigmoid() * hx[1] + i.sigmoid() * g.tanh()
            state = o.sigmoid() * cell.tanh()
            return state, (state, cell)
        (r, z, n), (r_back, z_back, n_back) = gates.chunk(3, -1), back.chunk(3, -1)
        update = (z + z_back).sigmoid()
        state = (1 - update) * (n + (r + r_back).sigmoid() * n_back).tanh() + update * state
        return state, state


def symbolize(model: nn.Module, packed: PackedModel, parts: Sequence[str]) -> Dict[str, Set[str]]:
    """Put symbols in the place of the packed layers in some parts of a model; the model then only traces.

    Layers that are symbols already, for another graph, are passed over.

    Args:
        packed: what was loaded into the model
        parts: names of modules

    Returns:
        the weights that the symbols name, by their names in `packed.weights`, with the symbols' operators

    Raises:
        ExportError: there is a packed layer of a kind that has no symbol
        NotInstalledError: torch is too old
    """
    if not hasattr(torch.onnx, "ops"):
        raise NotInstalledError(f"torch {torch.__version__} does not name nodes of ONNX. Fix: pip install 'torch>=2.8'")
    names: Dict[str, str] = {name: name for name in packed.weights}
    names.update({alias: name for alias, name in packed.aliases.items() if name in packed.weights})
    layers: Dict[str, Dict[str, str]] = {}
    for full, name in names.items():
        path, _, parameter = full.rpartition(".")
        if any(path == part or path.startswith(part + ".") for part in parts):
            layers.setdefault(path, {})[parameter] = name
    found: Dict[str, Set[str]] = {}
    for path, weights in layers.items():
        layer = model.get_submodule(path)
        if isinstance(layer, _Symbol):
            continue
        symbol, operator = _symbol(layer, weights, path)
        owner, _, own = path.rpartition(".")
        setattr(model.get_submodule(owner), own, symbol)
        for name in weights.values():
            found.setdefault(name, set()).add(operator)
    return found


def _symbol(layer: Any, weights: Mapping[str, str], path: str) -> Tuple[nn.Module, str]:
    """What stands for a layer, and the operator of its symbols. Raises ExportError: nothing can."""
    if isinstance(layer, (nn.LSTM, nn.GRU)) and {*weights} == {"weight_ih_l0", "weight_hh_l0"}:  # one layer
        return SymbolicRecurrent(layer, weights), SymbolicLinear.operator
    kind = _kind(layer)
    if kind is None or {*weights} != {"weight"}:
        raise ExportError(
            f"{path} is packed, and a {type(layer).__name__} cannot be written on codes. "
            f'Fix: leave it in float (exclude: ["{path}"])'
        )
    return kind(layer, weights["weight"]), kind.operator


def _kind(layer: nn.Module) -> Optional[Type[_Symbol]]:
    if isinstance(layer, nn.Embedding):
        return SymbolicEmbedding
    if isinstance(layer, nn.Linear) and not isinstance(layer, NonDynamicallyQuantizableLinear):
        return SymbolicLinear
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    simple = (layer.kernel_size, layer.stride, layer.padding, layer.groups) == ((1,), (1,), (0,), 1)
    return SymbolicPointwise if simple else SymbolicConvolution
