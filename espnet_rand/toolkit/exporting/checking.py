"""Compares a graph with the model that it was traced from, at several lengths.

The tracer takes some sizes that are equal in its example for equal at all lengths, and says nothing.
"""

from typing import Dict, List, Mapping, NamedTuple

import torch
from onnx import ModelProto
from torch import Tensor, nn

from espnet_rand.errors import one_line
from espnet_rand.export.codes import ExportError
from espnet_rand.export.onnx import open_session

# by how much inputs are shorter than the example, in steps of their axes: some of all remainders
_SHORTER = (0, 1, 2, 4, 7, 40)
# root mean square of the differences, relative to the outputs'; float arithmetic has 1e-6
_MOST = 1e-4


class Axis(NamedTuple):
    """How an axis is shortened: by so many at a time, and to so many at first; 0: as many as the example has."""

    step: int = 1
    most: int = 0


class Computed(NamedTuple):
    """Inputs by their names, and what a module computes of them."""

    inputs: Dict[str, Tensor]
    outputs: List[Tensor]


@torch.no_grad()
def compute(
    module: nn.Module, example: Mapping[str, Tensor], dynamic: Mapping[str, Dict[int, str]], axes: Mapping[str, Axis]
) -> List[Computed]:
    """What a module computes of noise as long as its example, and of shorter noise.

    Args:
        example, dynamic: see `tracing.trace`
        axes: how axes are shortened, by their names
    """
    found = []
    generator = torch.Generator().manual_seed(0)
    for shorter in _SHORTER if any(dynamic.values()) else (0,):
        inputs = {}
        for name, tensor in example.items():
            shape = [*tensor.shape]
            for axis, called in dynamic.get(name, {}).items():
                step, most = axes.get(called, Axis())
                shape[axis] = max(1, min(shape[axis], most or shape[axis]) - shorter * step)
            noise = torch.randn(shape, generator=generator) if tensor.is_floating_point() else torch.zeros(shape)
            inputs[name] = noise.to(tensor.dtype)
        outputs = module.eval()(*inputs.values())
        found.append(Computed(inputs, [*outputs] if isinstance(outputs, (tuple, list)) else [outputs]))
    return found


def check(graph: ModelProto, name: str, expected: List[Computed]) -> None:
    """See that a graph computes what its module did.

    Args:
        graph: with exact weights

    Raises:
        ExportError: it does not, or not at all lengths
    """
    session = open_session(graph.SerializeToString(), name)
    for inputs, outputs in expected:
        given = {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()}
        try:
            found = session.run(None, given)
        except Exception as e:  # of ONNX Runtime's own kinds
            raise _differs(name, f"ONNX Runtime fails at some lengths: {one_line(e)}") from None
        for wanted, one in zip(outputs, found):
            got = torch.from_numpy(one)
            if got.shape != wanted.shape:
                raise _differs(name, f"its output is {tuple(got.shape)} where it should be {tuple(wanted.shape)}")
            error = (got.double() - wanted.double()).square().mean().sqrt()
            if not error <= _MOST * wanted.double().square().mean().sqrt().clamp(min=1e-3):
                raise _differs(name, f"its output differs by {error:.1e}")


def _differs(name: str, how: str) -> ExportError:
    return ExportError(
        f"{name}: the exported graph does not compute what ESPnet computes: {how}. Nothing is written. Fix: report it, "
        "with config.yaml; another input_layer or encoder may do"
    )
