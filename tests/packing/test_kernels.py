"""Integer kernels against the decoded weight."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from espnet_rand import QuantizerConfig, quantize
from espnet_rand.packing import load_into, pack_model
from espnet_rand.packing.file import PackedWeight
from espnet_rand.packing.kernels import Convolution, Int4WeightOnly, Int8Convolution, Int8Dynamic, Int8Matmul
from espnet_rand.quantizers import Grid
from espnet_rand.quantizers.granularity import PerChannel, PerGroup, PerTensor

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
LAYERS = {
    "linear": (lambda: nn.Linear(128, 48), torch.Size([3, 5, 128])),
    "no bias, no batch": (lambda: nn.Linear(128, 48, bias=False), torch.Size([128])),
    "pointwise": (lambda: nn.Conv1d(128, 48, 1), torch.Size([3, 128, 7])),
    "pointwise, no batch": (lambda: nn.Conv1d(128, 48, 1), torch.Size([128, 7])),
    "pointwise, batch of one": (lambda: nn.Conv1d(128, 48, 1), torch.Size([1, 128, 7])),
}


def both(layer, shape, backend, device="cpu", **options):
    """The layer's backend; the output in it, and that of the evaluation."""
    torch.manual_seed(0)
    stock = nn.Sequential(layer()).to(device)
    model = nn.Sequential(layer())
    quantize(stock, QuantizerConfig("absmax", depthwise=True, **options))
    load_into(model, pack_model(stock), backend, device)
    x = torch.randn(shape).to(device)
    with torch.no_grad():
        return model[0]._quantized["weight"].backend, model(x), stock(x)


CONVOLUTIONS = {
    "conv1d": (lambda: nn.Conv1d(24, 16, 5, stride=2, padding=3, dilation=2, groups=2), torch.Size([3, 24, 40])),
    "conv1d, stride alone": (lambda: nn.Conv1d(24, 16, 1, stride=2), torch.Size([3, 24, 40])),
    "conv2d": (lambda: nn.Conv2d(8, 16, (3, 5), stride=(2, 1), padding=(0, 2)), torch.Size([2, 8, 20, 10])),
    "conv2d, no bias": (lambda: nn.Conv2d(1, 16, 3, bias=False), torch.Size([2, 1, 20, 10])),
    "conv2d, depthwise": (lambda: nn.Conv2d(16, 16, 3, groups=16), torch.Size([2, 16, 20, 10])),
}


@pytest.mark.parametrize("layer, shape", [*LAYERS.values(), *CONVOLUTIONS.values()], ids=[*LAYERS, *CONVOLUTIONS])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_int8_dynamic(layer, shape, bits, granularity, device):
    backend, y, expected = both(layer, shape, "int8_dynamic", device, bits=bits, granularity=granularity)
    if backend == "float":
        pytest.skip("not an x86 CPU")
    assert y.shape == expected.shape and (y - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("layer, shape", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "tensor"},
        {"granularity": "channel"},
        *({"granularity": "group", "group_size": n} for n in (32, 64)),
    ],
    ids=str,
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_int4_weight_only(layer, shape, bits, options, device):
    backend, y, expected = both(layer, shape, "int4_weight_only", device, bits=bits, **options)
    assert backend == "Int4WeightOnly"
    assert y.shape == expected.shape and (y - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("length, group", [(96, 64), (160, 64), (512, 96), (192, 128), (128, 500)])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_int4_weight_only_with_a_shorter_last_group(length, group, device):
    options = {"granularity": "group", "group_size": group}
    backend, y, expected = both(lambda: nn.Linear(length, 48), (7, length), "int4_weight_only", device, **options)
    assert backend == "Int4WeightOnly" and (y - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("frames", [(), (5,), (3, 20)])
@pytest.mark.parametrize("bits, granularity", [(8, "tensor"), (4, "channel")])
def test_the_arithmetic_of_int8_matmul(bits, granularity, frames):
    """That of CUDA, which torch has for CPUs as well."""
    stock = nn.Sequential(nn.Linear(128, 48, bias=False))
    quantize(stock, QuantizerConfig("absmax", bits=bits, granularity=granularity))
    kernel = Int8Matmul(pack_model(stock).weights["0.weight"])
    x = torch.randn(*frames, 128)
    with torch.no_grad():
        y, expected = kernel(x), stock(x)
    assert y.shape == expected.shape and (y - expected).abs().max() < 0.02 * expected.abs().max()
    assert not kernel(torch.zeros(2, 128)).any()
    assert torch.equal(kernel.weight().values(), stock.eval()[0].weight)


@pytest.mark.parametrize(
    "kernel, granularity",
    [
        (Int8Matmul, PerTensor()),
        (Int8Matmul, PerChannel()),
        (Int4WeightOnly, PerTensor()),
        (Int4WeightOnly, PerChannel()),
        (Int4WeightOnly, PerGroup(32)),
    ],
)
def test_what_cudas_kernels_get(kernel, granularity, monkeypatch):
    """Shapes and dtypes alone, which torch checks without a GPU."""
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    with FakeTensorMode():
        scales = torch.rand(granularity.groups(torch.empty(48, 128)), device="cuda")
        packed = torch.zeros(48, 64, dtype=torch.uint8, device="cuda")
        weight = PackedWeight(packed, scales, grid=Grid(4), shape=(48, 128), granularity=granularity)
        if kernel is Int4WeightOnly:
            assert "8.0" in kernel.serves(weight, scales.device)
            monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
        assert kernel.serves(weight, scales.device) is None
        made = kernel(weight)
        y = made(torch.rand(3, 5, 128, device="cuda"))
        assert y.shape == (3, 5, 48) and y.is_cuda and y.dtype == torch.float32
        assert made.weight().packed.shape == packed.shape and made.weight().packed.is_cuda


def made(kind, layer, device="cpu"):
    """A layer in the evaluation, without its bias, and its kernel."""
    torch.manual_seed(0)
    stock = nn.Sequential(layer())
    stock[0].bias = None
    quantize(stock, QuantizerConfig("absmax", bits=4, depthwise=True))
    stock.to(device).eval().requires_grad_(False)
    weight = pack_model(stock).weights["0.weight"]
    weight = replace(weight, packed=weight.packed.to(device), scales=weight.scales.to(device))
    convolution = Convolution(*(getattr(stock[0], name) for name in Convolution._fields)) if layer in WIDE else None
    if (kind, device) != (Int8Matmul, "cpu") and kind.serves(weight, torch.device(device), convolution):
        pytest.skip(f"not on this {device}")
    return stock, kind(weight, convolution)


WIDE = [layer for layer, _ in CONVOLUTIONS.values()]
EACH_KERNEL = pytest.mark.parametrize(
    "kind, layer, shape",
    [
        *((kind, *LAYERS["linear"]) for kind in (Int8Dynamic, Int8Matmul, Int4WeightOnly)),
        *((Int8Convolution, *CONVOLUTIONS[name]) for name in ("conv1d", "conv2d", "conv2d, depthwise")),
    ],
    ids=["Int8Dynamic", "Int8Matmul", "Int4WeightOnly", "conv1d", "conv2d", "conv2d, depthwise"],
)
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])


@EACH_KERNEL
@DEVICES
@DTYPES
@pytest.mark.parametrize("numbers", [[torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf]])
def test_what_is_not_finite_in_the_input_spoils_the_same_outputs_as_in_float(
    kind, layer, shape, device, dtype, numbers
):
    stock, kernel = made(kind, layer, device)
    without = torch.randn(shape, device=device).to(dtype) / 16
    x = without.clone()
    for i, number in enumerate(numbers):
        spoiled = (i, 2 + i, 5) if kind is Int8Convolution else (i, 2 + i)  # numbers, or a row
        without[spoiled] = 0
        x[spoiled] = 100
        x[i, 2 + i, 5] = number
    finite = stock(x.float()).isfinite()
    y = kernel(x)
    assert finite.any() and not finite.all()
    assert y.dtype == dtype and torch.equal(y.isfinite(), finite)
    assert torch.equal(y[finite], kernel(without)[finite])


@EACH_KERNEL
def test_an_input_that_is_nowhere_finite(kind, layer, shape):
    _, kernel = made(kind, layer)
    for number in (torch.nan, torch.inf):
        x = torch.full(shape, number)
        assert not kernel(x).isfinite().any()
        if kind is not Int8Convolution:
            assert not kernel(x[0, 0]).isfinite().any()


@EACH_KERNEL
def test_finite_numbers_whose_sum_is_not(kind, layer, shape):
    _, kernel = made(kind, layer)
    x = torch.rand(shape)
    large = 2.0**120
    assert (x * large).sum().isinf() and torch.equal(kernel(x * large), kernel(x) * large)


@EACH_KERNEL
@DEVICES
@DTYPES
def test_an_empty_batch(kind, layer, shape, device, dtype):
    stock, kernel = made(kind, layer, device)
    shapes = [(0, *shape[1:])]
    if kind is not Int8Convolution:
        shapes += [(0, shape[-1]), (2, 0, shape[-1])]
    for empty in shapes:
        y = kernel(torch.zeros(empty, device=device, dtype=dtype))
        assert y.shape == stock(torch.zeros(empty, device=device)).shape and y.dtype == dtype


@pytest.mark.parametrize(
    "backend, options",
    [
        ("int4_weight_only", {"bits": 5}),
        ("int4_weight_only", {"granularity": "group", "group_size": 24}),
        ("int8_dynamic", {"granularity": "group"}),
        ("int8_dynamic", {"granularity": "column"}),
        ("int4_weight_only", {"granularity": "column"}),
        ("auto", {"granularity": "group"}),
        ("dequantize", {}),
    ],
)
def test_what_a_kernel_cannot_do_is_decoded(backend, options):
    name, y, expected = both(*LAYERS["linear"], backend, **options)
    assert name == "float" and torch.equal(y, expected)


def test_a_convolution_of_silence():
    model = nn.Sequential(nn.Conv2d(8, 16, 3))
    quantize(model, QuantizerConfig("absmax"))
    load_into(silent := nn.Sequential(nn.Conv2d(8, 16, 3)), pack_model(model), "int8_dynamic")
    with torch.no_grad():
        y = silent(torch.zeros(1, 8, 20, 10))
    assert torch.equal(y, model[0].bias[:, None, None].expand_as(y))


def test_a_convolution_without_a_batch_is_decoded():
    """torch's integer convolutions want a batch."""
    name, y, expected = both(lambda: nn.Conv2d(8, 16, 3), torch.Size([8, 20, 10]), "int8_dynamic")
    assert name in ("Int8Convolution", "float") and torch.equal(y, expected)


@pytest.mark.parametrize(
    "layer", [lambda: nn.Linear(128, 48), lambda: nn.Conv1d(16, 48, 3), lambda: nn.Conv2d(4, 48, 3)]
)
@pytest.mark.parametrize("backend", ["int8_dynamic", "int4_weight_only"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_weight_is_found_again_in_the_kernel(layer, backend, bits):
    stock, model = nn.Sequential(layer()), nn.Sequential(layer())
    quantize(stock, QuantizerConfig("absmax", bits=bits))
    load_into(model, pack_model(stock), backend)
    assert torch.equal(model[0].weight + 0.0, stock.eval()[0].weight)


def test_int4_keeps_the_codes_once():
    """Once computed with: its layout and its scales, half a byte a weight, and no other tensor."""
    stock, model = nn.Sequential(nn.Linear(128, 48)), nn.Sequential(nn.Linear(128, 48))
    quantize(stock, QuantizerConfig("absmax", bits=2))
    packed = pack_model(stock)
    load_into(model, packed, "int4_weight_only")
    codes = weakref.ref(packed.weights["0.weight"].packed)
    with torch.no_grad():
        model(torch.randn(3, 128))
    del packed
    assert codes() is None
