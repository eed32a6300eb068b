"""Operators of ONNX Runtime on packed codes give what the codes and scales say."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import espnet_rand
from espnet_rand.export.codes import code_matrix
from espnet_rand.export.onnx import OPSET, fill
from espnet_rand.export.symbols import DOMAIN, symbolize
from espnet_rand.packing import PackedWeight, load_into, pack_model
from espnet_rand.packing.bits import pack
from espnet_rand.quantizers import Grid, PerGroup, PerTensor
from espnet_rand.toolkit.exporting.tracing import trace

BITS = (2, 3, 4, 5, 8)
GRANULARITIES = ({"granularity": "tensor"}, {}, {"granularity": "group", "group_size": 48}, {"granularity": "column"})


class Layers(nn.Module):
    """A layer of each kind: tokens (1, length) -> (1, length, 20)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 80)
        self.linear = nn.Linear(80, 6)
        self.image = nn.Conv2d(6, 6, (1, 3), stride=(1, 2), padding=(0, 1))
        self.wide = nn.Conv1d(6, 8, 3, padding=2, dilation=2)
        self.pointwise = nn.Conv1d(8, 96, 1)
        self.out = nn.Linear(96, 20, bias=False)

    def forward(self, tokens):
        x = self.linear(self.embed(tokens)).transpose(1, 2)
        x = self.wide(self.image(x.unsqueeze(2)).squeeze(2))
        return self.out(self.pointwise(x).transpose(1, 2))


def packed(**conf):
    torch.manual_seed(0)
    model = Layers()
    espnet_rand.quantize(model, {"quantizer": "absmax", "quantizer_conf": conf})
    return pack_model(model)


@pytest.fixture(scope="module")
def traced():
    """The graph of Layers with symbols: shapes do not depend on bits and granularity."""
    load_into(model := Layers(), made := packed(), backend="dequantize")
    symbolize(model, made, [name for name, _ in model.named_children()])
    return trace(model, {"tokens": torch.zeros(1, 9, dtype=torch.int64)}, {"tokens": {1: "length"}}, ["y"])


def run(graph, **inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options).run(None, inputs)[0]


def stored(graph, name, weight):
    """The codes of a weight in a graph, (channels, length): what this test knows of the operators' layouts."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    if name in arrays:
        return arrays[name].astype(np.int64).reshape(weight.matrix_shape[0], -1)
    bits = next(width for width in (2, 4, 8) if width >= weight.bits)
    blocks = arrays[f"{name}.blocks"].astype(np.int64)
    codes = np.stack([blocks >> shift & 2**bits - 1 for shift in range(0, 8, bits)], axis=-1) - 2 ** (bits - 1)
    rows, length = code_matrix(weight).shape
    assert not codes.reshape(rows, -1)[:, length:].any()
    return codes.reshape(rows, -1)[:, :length]


@pytest.mark.parametrize("conf", GRANULARITIES)
@pytest.mark.parametrize("bits", BITS)
def test_every_code_is_in_the_graph_and_is_computed_with(traced, bits, conf):
    model = packed(bits=bits, **conf)
    load_into(reference := Layers(), model, backend="dequantize")
    tokens = np.random.default_rng(0).integers(0, 11, (1, 35))
    expected = reference(torch.from_numpy(tokens)).numpy()
    for exact, tolerance in ((True, 1e-6), (False, 0.03)):
        ways = fill(graph := copy.deepcopy(traced), model.weights, exact)
        assert ways.keys() == model.weights.keys()
        for name, weight in model.weights.items():
            assert np.array_equal(stored(graph, name, weight), code_matrix(weight).numpy()), name
            for float_copy in (weight.values(), weight.values().flatten(1).t()):
                assert float_copy.numpy().tobytes() not in graph.SerializeToString()
        error = np.abs(run(graph, tokens=tokens) - expected).max() / np.abs(expected).max()
        assert error < tolerance, (exact, ways)


@pytest.mark.parametrize("conf", ({}, {"granularity": "group", "group_size": 48}), ids=["channel", "group"])
@pytest.mark.parametrize("bits", (2, 4))
@pytest.mark.parametrize("rotation", ("none", "hadamard"))
@pytest.mark.parametrize("grid", ("symmetric", "signed", "half_step", "asymmetric"))
def test_grids_and_rotations_are_computed_with(traced, grid, rotation, bits, conf):
    model = packed(bits=bits, grid=grid, rotation=rotation, **conf)
    load_into(reference := Layers(), model, backend="dequantize")
    tokens = np.random.default_rng(0).integers(0, 11, (1, 35))
    expected = reference(torch.from_numpy(tokens)).numpy()
    for exact, tolerance in ((True, 1e-5), (False, 0.03)):
        ways = fill(graph := copy.deepcopy(traced), model.weights, exact)
        error = np.abs(run(graph, tokens=tokens) - expected).max() / np.abs(expected).max()
        assert error < tolerance, (exact, ways)
    if conf and grid == "asymmetric":
        assert ways["out.weight"] == f"MatMulNBits, {bits} bits in blocks of 16"


def alone(operator, x, codes, bits, group=0, **options):
    """What one layer with these codes, and scales of 1, gives for `x`."""
    granularity, scales = (PerGroup(group), codes.numel() // group) if group else (PerTensor(), 1)
    shape = tuple(codes.shape)
    weight = PackedWeight(pack(codes.flatten(1), bits), torch.ones(scales), Grid(bits), shape, granularity)
    node = helper.make_node(operator, ["x"], ["y"], domain=DOMAIN, weight="w", **options)
    values = [helper.make_tensor_value_info(name, 1, [None] * x.ndim) for name in "xy"]
    graph = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]), ir_version=10)
    del graph.opset_import[:]
    graph.opset_import.append(helper.make_opsetid("", OPSET))
    fill(graph, {"w": weight})
    return run(graph, x=x)


@pytest.mark.parametrize("bits", [4, 7, 8])
def test_the_largest_sums_do_not_saturate(bits):
    """Inputs 0 to 255 are their own 8-bit integers: what comes out are the sums, exactly."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    x = np.full((1, 2, 64), 255, dtype=np.float32)
    x[0, 1, :5] = 0, 1, 2, 3, 254
    codes = torch.tensor([[low] * 64, [high] * 64, [low, high] * 32, [high] * 32 + [low] * 32], dtype=torch.int8)
    expected = x.astype(np.int64) @ codes.numpy().astype(np.int64).T
    assert np.array_equal(alone("Linear", x, codes, bits), expected)
    options = {"strides": [1], "pads": [0, 0], "dilations": [1], "group": 1}
    swapped = alone("Convolution", x.transpose(0, 2, 1).copy(), codes[:, :, None], bits, **options)
    assert np.array_equal(swapped, expected.transpose(0, 2, 1))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_largest_sums_of_blocks_do_not_saturate(bits):
    """Activations of a block that have one size are rounded to themselves."""
    x = np.ones((1, 3, 64), dtype=np.float32)
    x[0, 1], x[0, 2, ::2] = -1, -1
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = torch.tensor([[low] * 64, [high] * 64, [low, high] * 32], dtype=torch.int8)
    found = alone("Linear", x, codes, bits, group=32)
    np.testing.assert_allclose(found, x @ codes.numpy().astype(np.float32).T, rtol=1e-5)
