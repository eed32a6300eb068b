"""A packed model in place of the quantized one: every layer type, through the file."""

import copy
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from espnet_rand import QuantizationError, QuantizerConfig, quantize, set_eval_bits
from espnet_rand.environment import BACKENDS
from espnet_rand.layers import evaluating_at
from espnet_rand.packing import (
    PackedFileError,
    PackedModel,
    PackedWeight,
    load_into,
    pack_model,
    read_packed,
    report,
    weights_on_meta,
    write_packed,
)
from espnet_rand.quantizers import Grid
from espnet_rand.quantizers.granularity import PerChannel


class AllLayers(nn.Module):
    """One layer of each family; the output layer shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(17, 24)
        self.pointwise = nn.Conv1d(24, 32, 1)
        self.conv1d = nn.Conv1d(32, 24, 3, padding=1)
        self.conv2d = nn.Conv2d(1, 4, 3, padding=1)
        self.up = nn.ConvTranspose1d(24, 36, 3, padding=1, groups=6)
        self.up2d = nn.ConvTranspose2d(4, 1, 3, padding=1)
        self.depthwise = nn.Conv1d(36, 36, 3, padding=1, groups=36)
        self.batch_norm = nn.BatchNorm1d(36)
        self.lstm = nn.LSTM(36, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(16, 24, batch_first=True)
        self.cell = nn.LSTMCell(24, 24)
        self.attention = nn.MultiheadAttention(24, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(24, 2, kdim=16, vdim=16, batch_first=True)
        self.linear = nn.Linear(24, 24)
        self.out = nn.Linear(24, 17, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        x = self.pointwise(self.embed(tokens).transpose(1, 2))
        x = self.conv1d(x)
        x = self.up2d(self.conv2d(x[:, None]))[:, 0]
        y = self.lstm(self.batch_norm(self.depthwise(self.up(x))).transpose(1, 2))[0]
        x = self.gru(y)[0]
        x = x + self.attention(x, x, x)[0] + self.cross(x, y, y)[0]
        x = x + self.cell(x[:, 0])[0][:, None]
        return self.out(torch.relu(self.linear(x)))


CONFIGS = {
    "2-tensor": QuantizerConfig("rand", bits=2, mode=2, granularity="tensor"),
    "3-channel": QuantizerConfig("lsc", bits=3, init="lsq+"),
    "4-channel": QuantizerConfig("rand", bits=4, mode=3, init="clip"),
    "5-group": QuantizerConfig("absmax", bits=5, granularity="group", group_size=7),
    "6-column": QuantizerConfig("rand", bits=6, mode=3, init="norm", granularity="column"),
    "8-mixed": QuantizerConfig("clip", bits=8, overrides={"lstm": {"bits": 2}, "gru": {"granularity": "group"}}),
}
TOKENS = torch.arange(2 * 9).view(2, 9) % 17
ON_EACH_DEVICE = pytest.mark.usefixtures("device")


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def model(request):
    torch.manual_seed(0)
    model = AllLayers()
    quantize(model, request.param)
    return model.eval()


def loaded(packed, backend):
    with weights_on_meta():
        model = AllLayers()
    load_into(model, packed, backend, TOKENS.device)
    return model


def through_a_file(model, tmp_path):
    path = tmp_path / "model.safetensors"
    write_packed(path, pack_model(model))
    return read_packed(path)


@ON_EACH_DEVICE
@torch.no_grad()
def test_dequantized_it_is_the_evaluation_bit_for_bit(model, tmp_path):
    packed = loaded(through_a_file(model, tmp_path), "dequantize")
    assert torch.equal(packed(TOKENS), model(TOKENS))


@torch.no_grad()
def test_without_memory_for_float_weights_it_decodes_in_each_call(model, tmp_path, monkeypatch, caplog):
    needed = sum(math.prod(weight.shape) * 4 for weight in pack_model(model).weights.values())
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=needed // 2))
    packed = loaded(through_a_file(model, tmp_path), "dequantize")
    assert "decoded in each call" in caplog.text
    assert not any(buffer.dim() > 1 for buffer in packed.buffers())
    assert torch.equal(packed(TOKENS), model(TOKENS))


@ON_EACH_DEVICE
@torch.no_grad()
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "dequantize"])
def test_integer_compute_is_near_the_evaluation(model, tmp_path, backend):
    expected = model(TOKENS)
    error = (loaded(through_a_file(model, tmp_path), backend)(TOKENS) - expected).abs().max()
    assert error < 0.05 * expected.abs().max()


@ON_EACH_DEVICE
@torch.no_grad()
def test_weights_read_as_the_evaluations(model, tmp_path):
    packed = loaded(through_a_file(model, tmp_path), "auto")
    for name in ("linear.weight", "out.weight", "up.weight", "lstm.weight_hh_l1_reverse", "embed.weight"):
        layer, leaf = name.split(".")
        value = getattr(getattr(packed, layer), leaf)
        assert value.shape == getattr(getattr(model, layer), leaf).shape
        assert torch.equal(value + 0.0, getattr(getattr(model, layer), leaf)), name


def test_no_parameter_and_no_float_copy_of_an_integer_layer_is_left(model, tmp_path):
    packed = loaded(through_a_file(model, tmp_path), "auto")
    parameters = dict(packed.named_parameters())
    assert not any(name.startswith(("embed", "linear.weight", "out")) for name in parameters)
    assert "linear.bias" in parameters and not any(p.requires_grad for p in parameters.values())
    if torch.backends.quantized.engine == "x86" and packed.linear._quantized["weight"].backend == "Int8Dynamic":
        assert packed.linear.weight_decoded.numel() == 0
        # attention reads this one's weight, and computes in float
        assert packed.attention.out_proj._quantized["weight"].backend == "float"
        assert packed.attention.out_proj.weight_decoded.shape == (24, 24)


def test_a_layer_without_a_bias_still_says_its_dtype():
    model, packed = (nn.Sequential(nn.Linear(8, 4, bias=False).double()) for _ in range(2))
    quantize(model, {"quantizer": "absmax"})
    load_into(packed, pack_model(model))
    assert next(packed[0].parameters()).dtype == torch.float64 and not list(packed.parameters())


def test_a_tied_weight_is_stored_once(model):
    packed = pack_model(model)
    assert packed.aliases == {"out.weight": "embed.weight"} and "out.weight" not in packed.weights


@ON_EACH_DEVICE
@torch.no_grad()
@pytest.mark.parametrize("backend", ["int8_dynamic", "dequantize"])
@pytest.mark.parametrize("free", [2**40, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_computes_in_the_dtype_that_it_is_moved_to(monkeypatch, backend, free, dtype):
    """As ESPnet's `--dtype` does."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    torch.manual_seed(0)
    quantize(stock := AllLayers(), QuantizerConfig("absmax", bits=4))
    packed = loaded(pack_model(stock), backend).to(dtype)
    weight, expected = packed.linear.weight, stock.eval()(TOKENS)
    assert weight.dtype == dtype and (weight + 0).dtype == dtype
    if packed.linear._quantized["weight"].backend != "float":
        assert weight.to(dtype) is weight  # as OpenAI's Whisper does before each use
    y = packed(TOKENS)
    assert y.dtype == dtype and (y - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group", "column"])
def test_lookups_are_those_of_torch(granularity):
    quantize(stock := nn.Sequential(nn.Embedding(5, 6)), QuantizerConfig("absmax", granularity=granularity))
    load_into(packed := nn.Sequential(nn.Embedding(5, 6)), pack_model(stock))
    stock.eval()
    for indices in (torch.tensor(3), torch.zeros(2, 0, 3).long(), torch.tensor([[1, 4]], dtype=torch.int32)):
        assert torch.equal(packed(indices), stock(indices))
    for wrong in (-1, 5):
        with pytest.raises(IndexError):
            packed(torch.tensor([wrong]))


@torch.no_grad()
def test_torchs_functions_may_be_called_with_names():
    quantize(stock := nn.Sequential(nn.Linear(4, 3), nn.Conv1d(3, 2, 3), nn.Embedding(5, 6)), {})
    load_into(packed := nn.Sequential(nn.Linear(4, 3), nn.Conv1d(3, 2, 3), nn.Embedding(5, 6)), pack_model(stock))
    x, image, rows = torch.randn(2, 4), torch.randn(1, 3, 7), torch.tensor([2])
    linear, convolution, embedding = packed
    assert torch.equal(F.linear(input=x, weight=linear.weight, bias=linear.bias), linear(x))
    y = F.conv1d(input=image, weight=convolution.weight, bias=convolution.bias)  # decoded: no stride as layers give it
    torch.testing.assert_close(y, convolution(image), rtol=0.05, atol=0.05)
    assert torch.equal(F.embedding(input=rows, weight=embedding.weight), embedding(rows))


_LOADING = """
import sys
from pathlib import Path
import torch
from torch import nn
from espnet_rand.packing import load_into, read_packed, weights_on_meta

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def load(path, layers):
    with weights_on_meta():
        model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(layers)))
    load_into(model, read_packed(path))
    return model

load(sys.argv[1], 1)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
model = load(sys.argv[2], 48)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is Linux's")
@pytest.mark.skipif(torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"), reason="not an x86 CPU")
def test_loading_takes_little_more_memory_than_the_file(tmp_path):
    """No float copy of what computes on integers: 48 matrices of 4 MB in float, half a MB in the file."""
    for layers in (1, 48):
        weights = {
            f"{n}.weight": PackedWeight(
                torch.randint(0, 256, (1024, 512)).to(torch.uint8),
                torch.ones(1024),
                Grid(4),
                (1024, 1024),
                PerChannel(),
            )
            for n in range(layers)
        }
        floats = {f"{n}.bias": torch.zeros(1024) for n in range(layers)}
        write_packed(tmp_path / f"{layers}", PackedModel(weights, floats))
    size = (tmp_path / "48").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", _LOADING, tmp_path / "1", tmp_path / "48"],
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"},  # what is freed goes back at once
    )
    assert done.returncode == 0, done.stderr
    assert 0.5 * size < int(done.stdout) < 1.5 * size


def test_other_threads_do_not_notice_a_load():
    """Neither one that computes meanwhile, nor one that loads as well and ends later."""
    inside, leave, seen = threading.Event(), threading.Event(), []
    original = nn.Linear.__init__

    def compute():
        model = nn.Linear(2, 2)
        model.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
        seen.append((model.weight.device.type, model.to(torch.float64).weight.dtype, model.bias.sum().item()))

    def load():
        with weights_on_meta():
            inside.set()
            leave.wait()

    other = threading.Thread(target=load)
    with weights_on_meta():
        other.start()
        computing = threading.Thread(target=compute)
        computing.start()
        computing.join()
        both = inside.wait(0.3)
        assert nn.Linear(2, 2).weight.is_meta
    leave.set()
    other.join()
    assert seen == [("cpu", torch.float64, 2.0)] and not both
    assert nn.Linear.__init__ is original and nn.Linear(2, 2).weight.device.type == "cpu"


def test_it_says_how_many_weights_each_kernel_got(caplog):
    caplog.set_level("INFO")
    packed = pack_model(small({"quantizer": "absmax"}))
    load_into(small(), packed, "dequantize")
    assert "backend dequantize: float 2" in caplog.text and "serves no layer" not in caplog.text
    load_into(small(), packed, "int4_weight_only")
    reason = "Int4WeightOnly needs a multiple of 16 outputs, and groups of a multiple of 32"
    assert f"int4_weight_only serves no layer of the model, which is decoded: {reason}" in caplog.text


def test_one_frame_without_a_batch(model, tmp_path):
    """Transducer searches pass one-dimensional tensors (espnet #3616)."""
    packed = loaded(through_a_file(model, tmp_path), "auto")
    x = torch.randn(24)
    with torch.no_grad():
        torch.testing.assert_close(packed.linear(x), model.linear(x), rtol=0.05, atol=0.05)
        assert packed.linear(x).shape == (24,)


@torch.no_grad()
def test_copies_compute_the_same(model, tmp_path):
    packed = loaded(through_a_file(model, tmp_path), "auto")
    assert torch.equal(copy.deepcopy(packed)(TOKENS), packed(TOKENS))


def test_it_does_not_train(model, tmp_path):
    packed = loaded(through_a_file(model, tmp_path), "auto").train()
    with pytest.raises(RuntimeError, match="unpack_weights"):
        packed(TOKENS)


def test_packing_leaves_the_model_as_it_was(model):
    before = copy.deepcopy(model.state_dict())
    pack_model(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_packed_model_has_its_bits():
    stock = nn.Sequential(nn.Linear(4, 3))
    quantize(stock, QuantizerConfig("absmax"))
    load_into(packed := nn.Sequential(nn.Linear(4, 3)), pack_model(stock))
    with pytest.raises(QuantizationError, match="from a packed file, which has its bits"):
        set_eval_bits(packed, 3)
    with pytest.raises(QuantizationError, match="from a packed file, which has its bits"), evaluating_at(packed, 3):
        pass


def test_a_float_model_has_nothing_to_pack():
    with pytest.raises(QuantizationError, match="nothing to pack"):
        pack_model(nn.Linear(2, 2))


def small(config=None, **sizes):
    model = nn.Sequential(nn.Linear(sizes.get("inputs", 8), 16), nn.ReLU(), nn.Linear(16, 4))
    if config is not None:
        quantize(model, config)
    return model


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: small(inputs=9), r"0.weight is \(16, 8\), and \(16, 9\) in the model"),
        (lambda: nn.Sequential(*small(), nn.Linear(4, 4)), "has no 3.bias"),
        (lambda: small()[:1], "has an unknown 2.bias"),
        (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Bilinear(4, 1, 4)), "2.weight"),
    ],
)
def test_another_architecture_is_refused(other, message):
    packed, model = pack_model(small({})), other()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(PackedFileError, match=message):
        load_into(model, packed)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype, tmp_path):
    model = small().to(dtype)
    quantize(model, {})
    x = torch.randn(3, 8, dtype=dtype)
    path = tmp_path / "model.safetensors"
    write_packed(path, pack_model(model))
    twin = small().to(dtype)
    load_into(twin, read_packed(path), "dequantize")
    assert torch.equal(twin(x), model(x))
    load_into(twin := small().to(dtype), read_packed(path), "int8_dynamic")
    torch.testing.assert_close(twin(x), model(x), rtol=0.1, atol=0.05)


def test_sizes_are_compared_with_float32():
    model = nn.Linear(8, 4, bias=False).to(torch.bfloat16)
    quantize(model, QuantizerConfig("absmax"))
    packed = report(pack_model(model))
    assert packed.totals["bytes_before"] == 4 * 32 and "layer" not in str(packed).splitlines()[0]


def test_scales_take_16_bits_only_where_they_fit(tmp_path):
    model = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[7.0, 1, -2, 0], [3.5, 0, 1, 1]]))
    quantize(model, QuantizerConfig("absmax"))
    assert pack_model(model).weights["weight"].scales.dtype == torch.float16
    with torch.no_grad():
        dict(model.named_parameters())["weight"][0, 0] = 7.0001
    assert pack_model(model).weights["weight"].scales.dtype == torch.float32
