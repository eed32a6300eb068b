"""Files that somebody altered, whose checksum fits: refused with one line, or models of finite numbers."""

import json
import random
import re
import struct

import pytest
import torch
from torch import nn

from espnet_rand import QuantizerConfig, quantize
from espnet_rand.errors import NotFiniteError, UserError
from espnet_rand.packing import PackedFileError, load_into, pack_model, read_packed, write_packed
from espnet_rand.packing.file import _checksum

TOKENS = torch.arange(8).view(2, 4)
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
NUMBERS = (float("nan"), float("inf"), -float("inf"), 3.4e38, -0.0, 0.0)
SPECIAL = [struct.pack("<f", number) for number in NUMBERS]


class Small(nn.Module):
    """A layer of each way to compute, a mask with infinite numbers, a batch norm."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 16, 3, padding=1, groups=2)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.norm = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 8, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

    def forward(self, tokens):
        x = self.norm(self.up(self.conv(self.embed(tokens).transpose(1, 2)))).transpose(1, 2)
        x = self.rnn(torch.softmax(x @ x.transpose(1, 2) + self.mask, -1) @ x)[0]
        return self.out(x)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    model = Small()
    quantize(model, QuantizerConfig("clip", bits=4, overrides={"rnn": {"bits": 8}, "conv": {"granularity": "group"}}))
    path = tmp_path_factory.mktemp("hostile") / "model.safetensors"
    write_packed(path, pack_model(model))
    return path


def parts(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    outer = json.loads(data[8 : 8 + length])
    return outer, json.loads(outer.pop("__metadata__")["espnet_rand"]), bytearray(data[8 + length :])


def join(path, outer, header, data):
    """A file of these parts, with the checksum that fits, if the tensors can be read."""
    header.pop("sha256", None)
    at, whole = 0, bytearray()  # the bytes of removed tensors may not stay
    for about in sorted(outer.values(), key=lambda about: about["data_offsets"]):
        start, end = about["data_offsets"]
        whole += data[start:end]
        about["data_offsets"] = [at, at + end - start]
        at += end - start
    data = whole

    def put():
        text = json.dumps({"__metadata__": {"espnet_rand": json.dumps(header)}, **outer}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)

    put()
    try:
        from safetensors.torch import load

        tensors = load(path.read_bytes())
        header["sha256"] = _checksum(header, dict(sorted(tensors.items())))
    except Exception:  # a file that no reader takes
        return
    put()


def alter(outer, header, data, draw):
    """One change: of a description, of a tensor's dtype, of a name, of bytes."""
    kind = draw.choice(["about", "dtype", "bytes", "special", "header", "name", "large"])
    name = draw.choice([*header["weights"]])
    about = header["weights"][name]
    tensor = draw.choice([*outer])
    if kind == "about":
        key = draw.choice([*about, "transposed", "group_size"])
        values = [0, 1, 2, 3, 8, 9, -1, None, "", "channel", "tensor", "column", "float64", "float16", "bfloat16"]
        values += [[16, 16], [8, 16, 1], [], True, 1e9, 2**40, {}]
        about[key] = draw.choice(values)
    elif kind == "dtype":
        (start, end), shape = outer[tensor]["data_offsets"], outer[tensor]["shape"]
        new = draw.choice([*DTYPES])
        outer[tensor]["dtype"] = new
        if draw.random() < 0.7 and shape:
            outer[tensor]["shape"] = [*shape[1:], (end - start) // DTYPES[new] // max(1, _product(shape[1:]))]
        elif draw.random() < 0.3:
            outer[tensor]["shape"] = [1] * 70
    elif kind in ("bytes", "special"):
        start, end = outer[tensor]["data_offsets"]
        for _ in range(draw.randrange(1, 4)):
            if end - start >= 4 and kind == "special":
                at = start + 4 * draw.randrange((end - start) // 4)
                data[at : at + 4] = draw.choice(SPECIAL)
            elif end > start:
                data[start + draw.randrange(end - start)] = draw.randrange(256)
    elif kind == "large":  # numbers that the model's dtype does not have, under a dtype that has them
        count = _product(outer[tensor]["shape"])
        start = len(data)
        data += struct.pack("<d", draw.choice([1e300, -1e40, 1.0])) * count
        outer[tensor] = {"dtype": "F64", "shape": outer[tensor]["shape"], "data_offsets": [start, len(data)]}
        owner = tensor.removesuffix(".scales")
        if owner in header["weights"] and draw.random() < 0.5:
            header["weights"][owner]["dtype"] = "float64"
    elif kind == "header":
        header[draw.choice(["aliases", "infinite", "weights", "format_version"])] = draw.choice(
            [{}, [], None, 1, 2, {"out.weight": "conv.weight"}, [tensor], {"mask": "norm.weight"}, [0], "x"]
            + [
                {"out.weight": "embed.weight", "conv.bias": "up.bias"},
                {"out.weight": "embed.weight", "mask": "conv.bias"},
            ]
        )
    else:
        outer[draw.choice(["x", "conv.weight", "x.scales", name + ".scales"])] = outer.pop(tensor)


def _product(shape):
    total = 1
    for n in shape:
        total *= n
    return total


def attempt(path, backend):
    """What becomes of a file: the reason why it is refused, or none."""
    try:
        packed = read_packed(path)
        state = packed.state_dict()
        model = Small()
        load_into(model, packed, backend)
    except UserError as e:
        assert "\n" not in str(e)
        return str(e)
    for name, tensor in [*state.items(), *model.named_parameters(), *model.named_buffers()]:
        assert not tensor.is_floating_point() or tensor.isfinite().all() or name == "mask", name
    with torch.no_grad():
        model(TOKENS)
    return None


def altered(path, folder, count, seed):
    """What becomes of so many altered files."""
    draw, reasons = random.Random(seed), []
    for n in range(count):
        outer, header, data = parts(path)
        for _ in range(draw.randrange(1, 3)):
            alter(outer, header, data, draw)
            weights = header["weights"]
            if (
                not isinstance(weights, dict)
                or not all(isinstance(about, dict) for about in weights.values())
                or not weights
            ):
                break
        join(folder / "altered", outer, header, data)
        reasons.append(attempt(folder / "altered", ("auto", "dequantize")[n % 2]))
    return reasons


def test_altered_files_are_refused_or_computed_with(path, tmp_path):
    reasons = altered(path, tmp_path, 600, 0)
    assert 60 < sum(reason is None for reason in reasons) < 540, "of both there are many"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1.0, 0.0])
@pytest.mark.parametrize("name", ["rnn.weight_ih_l0", "conv.weight", "embed.weight"])
def test_scales_of_no_grid_are_refused_by_name(path, tmp_path, name, value):
    outer, header, data = parts(path)
    start, _ = outer[name + ".scales"]["data_offsets"]
    data[start : start + 4] = struct.pack("<f", value)
    join(tmp_path / "altered", outer, header, data)
    with pytest.raises(PackedFileError, match=f"{name}: .*1 of .* scales are NaN, infinite, negative or 0"):
        read_packed(tmp_path / "altered")


def test_a_scale_of_zero_is_allowed_where_all_codes_are_zero(path, tmp_path):
    outer, header, data = parts(path)
    start, _ = outer["embed.weight.scales"]["data_offsets"]
    data[start : start + 4] = bytes(4)
    start, _ = outer["embed.weight"]["data_offsets"]
    data[start : start + 8] = b"\x88" * 8  # the first row's 16 codes of 4 bits
    join(tmp_path / "altered", outer, header, data)
    weight = read_packed(tmp_path / "altered").weights["embed.weight"].values()
    assert not weight[0].any() and weight[1:].any()


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """A file with zero points and a rotation."""
    torch.manual_seed(0)
    model = Small()
    quantize(model, QuantizerConfig("absmax", bits=4, grid="asymmetric", rotation="hadamard"))
    path = tmp_path_factory.mktemp("shifted") / "model.safetensors"
    write_packed(path, pack_model(model))
    return path


@pytest.mark.parametrize("value", [["asymmetric"], {}, 1, None, "half"], ids=repr)
@pytest.mark.parametrize("key", ["grid", "rotation", "granularity", "dtype"])
def test_what_is_no_name_of_a_kind_is_refused_by_the_weight_and_the_key(shifted, tmp_path, key, value):
    outer, header, data = parts(shifted)
    header["weights"]["conv.weight"][key] = value
    join(tmp_path / "altered", outer, header, data)
    with pytest.raises(PackedFileError, match=f"conv.weight: unknown {key} {re.escape(repr(value))}"):
        read_packed(tmp_path / "altered")


def test_a_weight_may_not_be_the_zero_points_of_another(shifted, tmp_path):
    outer, header, data = parts(shifted)
    name = "conv.weight.zeros"
    header["weights"][name] = {
        "shape": [*outer[name]["shape"], 1],
        "bits": 8,
        "dtype": "float32",
        "granularity": "tensor",
    }
    outer[name + ".scales"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    join(tmp_path / "altered", outer, header, data + struct.pack("<f", 1.0))
    with pytest.raises(PackedFileError, match=f"{name} is said to be of two weights"):
        read_packed(tmp_path / "altered")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["conv.bias", "norm.running_var", "mask"])
def test_floats_that_are_not_finite_are_refused_by_name(path, tmp_path, name, value):
    """But for the mask's own; also if the file says that they may be."""
    for said in (None, ["mask", name]):
        outer, header, data = parts(path)
        start, _ = outer[name]["data_offsets"]
        data[start : start + 4] = struct.pack("<f", value)
        header["infinite"] = said or header["infinite"]
        join(tmp_path / "altered", outer, header, data)
        with pytest.raises((PackedFileError, NotFiniteError), match=f"{name}|in {name}"):
            load_into(Small(), read_packed(tmp_path / "altered"))


@pytest.mark.parametrize("where", ["conv.weight", "conv.bias", "rnn.weight_hh_l0"])
def test_parameters_that_are_not_finite_are_not_packed(where):
    model = Small()
    quantize(model, QuantizerConfig("rand", mode=3))
    with torch.no_grad():
        model.get_parameter(where).view(-1)[3] = torch.nan
    with pytest.raises(NotFiniteError, match=where):
        pack_model(model)


def test_weights_that_would_decode_to_infinite_numbers_are_not_packed():
    model = nn.Sequential(nn.Linear(4, 4)).half()
    with torch.no_grad():
        model[0].weight[0, 0] = -65504
    quantize(model, QuantizerConfig("lsc", bits=2))
    with torch.no_grad():
        model[0].scale_parameter("weight")[0] = 40000
    with pytest.raises(NotFiniteError, match="0.weight: its scales are too large for float16"):
        pack_model(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_keeps_its_own_dtype(path, dtype):
    """Also where the file was packed from a model of another."""
    torch.manual_seed(0)
    model = Small().to(dtype)
    quantize(model, QuantizerConfig("rand", bits=4))
    packed, loaded = pack_model(model), Small()
    for backend in ("auto", "dequantize"):
        load_into(loaded, packed, backend)
        with torch.no_grad():
            assert loaded(TOKENS).dtype == torch.float32 and loaded(TOKENS).isfinite().all()
        loaded = Small()
    assert all(tensor.dtype == dtype for name, tensor in packed.state_dict().items() if tensor.is_floating_point())
