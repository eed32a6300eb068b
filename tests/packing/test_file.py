"""The packed file: round trips, and files from outside."""

import json
import os
import random
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from espnet_rand import QuantizerConfig, packing, quantize
from espnet_rand.packing import PackedFileError, is_packed, pack_model, read_packed, write_packed

GRANULARITIES = st.sampled_from(
    [
        {"granularity": "tensor"},
        {"granularity": "channel"},
        {"granularity": "column"},
        *({"granularity": "group", "group_size": n} for n in (1, 5)),
    ]
)


@given(st.integers(2, 8), st.integers(1, 13), st.integers(1, 19), GRANULARITIES, st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_width_and_shape_comes_back(tmp_path_factory, bits, out, length, granularity, transposed, seed):
    torch.manual_seed(seed)
    made = nn.ConvTranspose2d(length, 2 * out, (3, 1)) if transposed else nn.Linear(length, out)
    model = nn.Sequential(made)
    quantize(model, QuantizerConfig("absmax", bits=bits, **granularity))
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    write_packed(path, pack_model(model))
    packed = read_packed(path)
    assert torch.equal(packed.weights["0.weight"].values(), model.eval()[0].weight)
    assert torch.equal(packed.floats["0.bias"], model[0].bias) and packed.weights["0.weight"].bits == bits


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5))
    model[1].weight = model[0].weight
    quantize(model, QuantizerConfig("rand", bits=3))
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    write_packed(path, pack_model(model, {"espnet": "202611"}))
    return path


def test_it_holds_what_it_was_given(path):
    packed = read_packed(path)
    assert set(packed.weights) == {"0.weight"} and packed.aliases == {"1.weight": "0.weight"}
    assert packed.info == {"espnet": "202611"} and packed.floats["2.num_batches_tracked"].dtype == torch.int64
    assert is_packed(path) and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_checkpoint_of_torch_is_not_packed(tmp_path):
    torch.save({}, tmp_path / "model.pth")
    assert not is_packed(tmp_path / "model.pth")
    with pytest.raises(PackedFileError, match="model.pth: not a packed model"):
        read_packed(tmp_path / "model.pth")


def test_every_truncation_is_refused(path, tmp_path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(PackedFileError):
            read_packed(tmp_path / "cut")


def test_every_change_of_a_byte_is_refused(path, tmp_path):
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(data))
            data[at] = (data[at] + draw.randrange(1, 256)) % 256
        (tmp_path / "changed").write_bytes(data)
        try:
            packed = read_packed(tmp_path / "changed")
        except PackedFileError:
            continue
        # what JSON does not mind, such as other white space, is allowed to change
        assert torch.equal(packed.weights["0.weight"].values(), read_packed(path).weights["0.weight"].values())


def rewritten(path, tmp_path, change):
    """The file with its header changed by `change(header)`; the checksum is left as it is."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    outer = json.loads(data[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["espnet_rand"])
    change(header)
    outer["__metadata__"]["espnet_rand"] = json.dumps(header)
    text = json.dumps(outer).encode()
    (tmp_path / "changed").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return tmp_path / "changed"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format_version": 3}, "format version 3"),
        ({"weights": []}, "damaged"),
        ({"weights": {"0.weight": None}}, "0.weight"),
        ({"weights": {"0.weight": {"shape": [5, 10**15]}}}, "it must be U8"),
        ({"weights": {"0.weight": {"shape": [2**40, 2**40]}}}, "0.weight: .*overflow"),
        ({"weights": {"0.weight": {"shape": [2**63]}}}, "0.weight: [^\n]*$"),
        ({"weights": {"0.weight": {"shape": [5, -6]}}}, "positive"),
        ({"weights": {"0.weight": {"bits": 9}}}, "9 bits"),
        ({"weights": {"0.weight": {"bits": 8}}}, "it must be U8"),
        ({"weights": {"0.weight": {"granularity": "group", "group_size": 0}}}, "group_size"),
        ({"weights": {"0.weight": {"transposed": 4}}}, "transposed"),
        ({"aliases": {"1.weight": "nothing"}}, "the same as nothing"),
        ({"aliases": {"1.weight": []}}, "the same as"),
        ({"sha256": "0"}, "checksum"),
        ({"espnet": "202612"}, "checksum"),
    ],
)
def test_a_wrong_header_is_named(path, tmp_path, change, message):
    def apply(header):
        for key, value in change.items():
            if key == "weights" and isinstance(value, dict) and value["0.weight"] is not None:
                value = {"0.weight": {**header["weights"]["0.weight"], **value["0.weight"]}}
            header[key] = value

    with pytest.raises(PackedFileError, match=message):
        read_packed(rewritten(path, tmp_path, apply))


def test_a_file_that_is_overwritten_later_changes_nothing(path, tmp_path):
    (tmp_path / "model").write_bytes(path.read_bytes())
    packed = read_packed(tmp_path / "model")
    before = packed.weights["0.weight"].values()
    with (tmp_path / "model").open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(packed.weights["0.weight"].values(), before) and before.any()
    assert torch.equal(packed.floats["2.running_var"], torch.ones(5))


def test_scales_of_16_bits_are_multiplied_in_float32(tmp_path):
    step = 1 + 2**-10  # 7 steps are no number of float16
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[7 * step, -3 * step]]))
    quantize(model, QuantizerConfig("absmax", bits=4))
    write_packed(tmp_path / "model", pack_model(model))
    packed = read_packed(tmp_path / "model")
    assert packed.weights["weight"].scales.dtype == torch.float16
    assert torch.equal(packed.state_dict()["weight"], model.eval().weight)


@pytest.mark.parametrize("dtype, shape, size", [("F4", [2], 1), ("F32", [0, 2**40, 2**40], 0)])
def test_tensors_that_torch_does_not_have_are_refused(tmp_path, dtype, shape, size):
    header = json.dumps({"format_version": 2, "weights": {}, "aliases": {}})
    about = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {"espnet_rand": header}, "x": about}).encode()
    (tmp_path / "model").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    with pytest.raises(PackedFileError, match="torch does not have|which no model has"):
        read_packed(tmp_path / "model")


def test_a_failed_write_leaves_the_old_file(path, tmp_path, monkeypatch):
    target = tmp_path / "model.safetensors"
    target.write_bytes(path.read_bytes())

    def half(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="full"):
        write_packed(target, read_packed(path))
    assert target.read_bytes() == path.read_bytes() and list(tmp_path.iterdir()) == [target]


def test_a_file_may_be_read_by_those_whom_the_umask_allows(path, tmp_path):
    before = os.umask(0o027)
    try:
        write_packed(tmp_path / "model", read_packed(path))
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o640


def test_another_program_can_read_it_by_the_page(tmp_path):
    """FORMAT.md, with numpy and whole numbers only: codes, scales, order of channels, checksum."""
    import hashlib

    import numpy as np

    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose1d(6, 4, 3, groups=2), nn.Linear(11, 3))
    quantize(model, QuantizerConfig("absmax", bits=3, granularity="group", group_size=4))
    write_packed(tmp_path / "model", pack_model(model))

    data = (tmp_path / "model").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    outer = json.loads(data[8 : 8 + length])
    header = json.loads(outer.pop("__metadata__")["espnet_rand"])
    raw = {name: data[8 + length :][slice(*about["data_offsets"])] for name, about in outer.items()}
    dtypes = {"U8": "torch.uint8", "F32": "torch.float32"}
    digest = hashlib.sha256(json.dumps({k: v for k, v in header.items() if k != "sha256"}, sort_keys=True).encode())
    for name in sorted(outer):
        digest.update(f"{name} {dtypes[outer[name]['dtype']]} {outer[name]['shape']}".encode())
        digest.update(raw[name])
    assert digest.hexdigest() == header["sha256"]

    for name, about in header["weights"].items():
        shape, bits, g = about["shape"], about["bits"], about.get("transposed", 0)
        rows = [shape[1] * g, shape[0] // g, *shape[2:]] if g else shape
        scales = np.frombuffer(raw[name + ".scales"], np.float32)
        channels, size = rows[0], int(np.prod(rows[1:]))
        groups, stride = -(-size // about["group_size"]), -(-size * bits // 8)
        weight = np.empty((channels, size), np.float32)
        for c in range(channels):
            number = int.from_bytes(raw[name][c * stride : (c + 1) * stride], "little")
            for i in range(size):
                code = (number >> (bits * i)) % 2**bits - 2 ** (bits - 1)
                weight[c, i] = scales[c * groups + i // about["group_size"]] * np.float32(code)
        weight = weight.reshape(rows)
        if g:
            split = weight.reshape(g, rows[0] // g, shape[0] // g, *shape[2:])
            weight = split.swapaxes(1, 2).reshape(shape)
        module, leaf = name.split(".")
        assert np.array_equal(weight, getattr(model.eval()[int(module)], leaf).detach().numpy()), name


@pytest.mark.parametrize("bits", range(2, 9))
def test_no_program_can_load_the_codes_as_weights(tmp_path, bits):
    """torch.load reads safetensors, and load_state_dict with strict=False takes what fits: at no shape do the codes."""

    def layers():
        yield from (nn.Linear(1, 1), nn.Linear(7, 1), nn.Linear(1, 9), nn.Linear(8, 8), nn.Conv1d(2, 3, 1))
        yield from (nn.Conv2d(2, 3, 3), nn.ConvTranspose1d(4, 2, 3), nn.Embedding(5, 4), nn.LSTM(3, 2))

    model, stock = (nn.Sequential(*layers()) for _ in range(2))
    quantize(model, QuantizerConfig("absmax", bits=bits))
    packed = pack_model(model)
    write_packed(tmp_path / "model.safetensors", packed)
    state = load_file(tmp_path / "model.safetensors")
    assert len(packed.weights) == 10
    for name in packed.weights:
        with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
            stock.load_state_dict({name: state[name]}, strict=False)


def test_version_0_1s_names_of_reading_and_writing_stay(path, tmp_path):
    packing.write(tmp_path / "again", packing.read(path))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
