"""whisper.cpp's file has the codes of the packed file, and whisper.cpp computes with them."""

import ctypes
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import espnet_rand
from espnet_rand.export import ctranslate2, ggml
from espnet_rand.export.codes import ExportError
from espnet_rand.packing import pack_model
from tests.export import tiny_whisper as tiny

GROUPS = [{"granularity": "group", "group_size": size} for size in (32, 64, 128)]
CHANNEL, TENSOR, GROUP32 = {"granularity": "channel"}, {"granularity": "tensor"}, GROUPS[0]
GRANULARITIES = [*GROUPS, CHANNEL, TENSOR]
# of a type: bytes of a block of 32 weights
BLOCKS = {0: 128, 1: 64, 2: 18, 3: 20, 6: 22, 7: 24, 8: 34}


def read(path):
    """The header's numbers, and of each tensor its type and data: those of matrices as (codes, scales, ...)."""
    data, at = Path(path).read_bytes(), 0

    def numbers(count):
        nonlocal at
        at += 4 * count
        return struct.unpack(f"<{count}i", data[at - 4 * count : at])

    def take(size):
        nonlocal at
        at += size
        return data[at - size : at]

    header = numbers(12)
    filters = numbers(2)
    take(4 * filters[0] * filters[1])
    tokens = [take(*numbers(1)) for _ in range(*numbers(1))]
    tensors = {}
    while at < len(data):
        axes, length, kind = numbers(3)
        shape = numbers(axes)[::-1]
        name = take(length).decode()
        blocks = np.frombuffer(take(int(np.prod(shape)) * BLOCKS[kind] // 32), np.uint8)
        tensors[name] = kind, shape, decode(kind, blocks, shape)
    return header, tokens, tensors


def decode(kind, data, shape):
    """As ggml's dequantize_row_* do: weight j of a block is in byte j % 16, its fifth bit in bit j of four bytes."""
    if kind in (0, 1):
        return data.view(np.float16 if kind else np.float32).reshape(shape)
    blocks = data.reshape(-1, BLOCKS[kind])
    scales, rest = blocks[:, :2].copy().view(np.float16)[:, 0], blocks[:, 2:]
    if kind == 8:
        return rest.view(np.int8).reshape(shape), scales
    codes = np.concatenate([rest[:, -16:] & 15, rest[:, -16:] >> 4], axis=1)
    if kind in (3, 7):  # with a minimum behind the scale; codes begin at 0
        minima, rest = rest[:, :2].copy().view(np.float16)[:, 0], rest[:, 2:]
    if kind in (6, 7):
        fifth = rest[:, :4].copy().view("<u4")
        codes += ((fifth >> np.arange(32, dtype=np.uint32) & 1) << 4).astype(np.uint8)
    if kind in (3, 7):
        return codes.reshape(shape), scales, minima
    return (codes.view(np.int8) - (8 if kind == 2 else 16)).reshape(shape), scales


@pytest.mark.parametrize(
    "options, bits",
    [
        *((options, 4) for options in GRANULARITIES),
        *((GROUP32, bits) for bits in (2, 3, 5, 8)),
        (CHANNEL, 8),
        (TENSOR, 5),
    ],
)
def test_codes_are_those_of_the_packed_file(tmp_path, options, bits):
    packed = tiny.packed({"bits": bits, **options})
    ggml.export(packed, tmp_path / "model.bin")
    header, tokens, tensors = read(tmp_path / "model.bin")
    number, kind = {5: (2008, 6), 8: (2007, 8)}.get(bits, (2002, 2))
    assert header == (0x67676D6C, 51864, 1500, 64, 1, 1, 448, 64, 1, 1, 80, number)
    assert len(tokens) == 50256 and tokens[:2] == [b"!", b'"'] and b" speech" in tokens
    names = {name.replace("encoders.", "").replace("decoders.", ""): name for name in packed.state_dict()}
    assert tensors.keys() == names.keys()
    for name, weight in packed.weights.items():
        found, _, (codes, scales) = tensors[next(short for short, long in names.items() if long == name)]
        assert found == kind and np.array_equal(codes, weight.codes().numpy())
        decoded = (codes.reshape(-1, 32) * scales[:, None].astype(np.float32)).reshape(weight.shape)
        assert np.allclose(decoded, weight.values().numpy(), rtol=1e-3, atol=0)
    floats = {name: tensor for name, tensor in packed.floats.items() if "conv" not in name}
    for name, tensor in floats.items():
        found, _, values = tensors[next(short for short, long in names.items() if long == name)]
        assert found == 0 and np.array_equal(values, tensor.numpy())
    assert tensors["encoder.conv2.weight"][0] == 1 and tensors["encoder.conv2.bias"][1] == (64, 1)


@pytest.mark.parametrize(
    "grid, bits, kind",
    [
        ("signed", 4, 2),
        ("half_step", 3, 2),
        ("half_step", 4, 3),
        ("asymmetric", 3, 2),
        ("asymmetric", 4, 3),
        ("asymmetric", 5, 7),
        ("asymmetric", 6, 8),
    ],
)
def test_other_grids_are_in_the_smallest_type_that_holds_their_numbers(tmp_path, grid, bits, kind):
    packed = tiny.packed({"bits": bits, "grid": grid, **GROUP32})
    said = ggml.export(packed, tmp_path / "model.bin")
    assert said.scale_error < 1e-3
    tensors = read(tmp_path / "model.bin")[2]
    for name in ("encoder.blocks.0.mlp.0.weight", "decoder.token_embedding.weight"):
        side = name.partition(".")[0]
        weight = packed.weights[name.replace(side, f"{side}.{side}s")]
        found, _, (codes, scales, *minima) = tensors[name]
        values = codes.reshape(-1, 32).astype(np.float32) * scales[:, None].astype(np.float32)
        values += minima[0][:, None].astype(np.float32) if minima else 0
        wanted = weight.values().numpy()
        error = np.abs(values.reshape(wanted.shape) - wanted).max() / np.abs(wanted).max()
        assert found == kind and error < 3 * 2**-11  # half precision rounds scales and minima


def test_minima_beyond_half_precision_are_refused(tmp_path):
    packed = tiny.packed({"bits": 4, "grid": "asymmetric", **GROUP32})
    name = "encoder.encoders.blocks.0.mlp.0.weight"
    weight = packed.weights[name]
    largest = replace(weight, scales=weight.scales.float() * (20000 / weight.scales.max()))
    with pytest.raises(ExportError, match="encoder.blocks.0.mlp.0.weight: weights beyond half precision"):
        ggml.export(replace(packed, weights={**packed.weights, name: largest}), tmp_path / "model.bin")
    assert not list(tmp_path.iterdir())


def test_half_steps_of_zeros_have_scales_that_do_not_matter():
    model = torch.nn.Linear(64, 2, bias=False)
    torch.nn.init.zeros_(model.weight[0])
    espnet_rand.quantize(model, {"quantizer": "absmax", "quantizer_conf": {"bits": 3, "grid": "half_step", **GROUP32}})
    assert ggml._problem(pack_model(model).weights["weight"]) == ""


@pytest.mark.parametrize("runtime", [ggml, ctranslate2])
@pytest.mark.parametrize(
    "options, remedy",
    [({"rotation": "hadamard"}, "rotation: none"), ({"grid": "half_step"}, "at most 7 bits")],
)
def test_the_remedy_is_for_what_is_refused(runtime, options, remedy):
    with pytest.raises(ExportError, match=f"Fix: .*{remedy}"):
        runtime.describe(tiny.packed({"bits": 8, **GROUP32, **options}))


def test_mixed_precisions_are_in_the_widest_type(tmp_path):
    bits = {"*": 4, "decoder.decoders.token_embedding": 8, "*.mlp.0": 3}
    packed = tiny.packed(GROUP32, bits=bits)
    said = str(ggml.export(packed, tmp_path / "model.bin"))
    assert "Q8_0" in said and "1 matrices with codes of 8 bits take 8.5" in said and "of 3 bits take 8.5" in said
    tensors = read(tmp_path / "model.bin")[2]
    weight = packed.weights["encoder.encoders.blocks.0.mlp.0.weight"]
    assert weight.bits == 3
    assert np.array_equal(tensors["encoder.blocks.0.mlp.0.weight"][2][0], weight.codes().numpy())


def logits(path, mel, tokens):
    """whisper.cpp's, after the last of some tokens."""
    pywhispercpp = pytest.importorskip("_pywhispercpp")
    library = ctypes.CDLL(str(Path(pywhispercpp.__file__).parent / "libwhisper.so"))
    library.whisper_init_from_file.restype = ctypes.c_void_p
    library.whisper_get_logits.restype = ctypes.POINTER(ctypes.c_float)
    context = ctypes.c_void_p(library.whisper_init_from_file(str(path).encode()))
    assert context.value
    try:
        data = np.ascontiguousarray(mel, np.float32)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert library.whisper_set_mel(context, pointer, data.shape[1], data.shape[0]) == 0
        assert library.whisper_encode(context, 0, 1) == 0
        assert library.whisper_decode(context, (ctypes.c_int * len(tokens))(*tokens), len(tokens), 0, 1) == 0
        last = np.ctypeslib.as_array(library.whisper_get_logits(context), (len(tokens), 51864))[-1]
        return last.copy()
    finally:
        library.whisper_free(context)


@pytest.mark.parametrize(
    "bits, grid",
    [(4, "symmetric"), (5, "symmetric"), (8, "symmetric"), (4, "signed"), (4, "asymmetric"), (5, "asymmetric")],
)
def test_whisper_cpp_computes_what_torch_does_with_the_decoded_weights(tmp_path, bits, grid, capfd):
    packed = tiny.packed({"bits": bits, "grid": grid, **GROUP32})
    ggml.export(packed, tmp_path / "model.bin")
    mel, tokens = torch.randn(80, 3000, generator=torch.Generator().manual_seed(1)) * 0.3, [50257, 50362, 100]
    found = logits(tmp_path / "model.bin", mel, tokens)
    with torch.no_grad():
        wanted = tiny.decoded(packed)(mel[None], torch.tensor([tokens]))[0, -1].numpy()
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()  # of 8-bit activations


@pytest.mark.parametrize("vocabulary, mels", [(51864, 80), (51865, 80), (51866, 128)])
def test_whisper_cpp_transcribes(tmp_path, vocabulary, mels):
    model = pytest.importorskip("pywhispercpp.model")
    packed = tiny.packed({"bits": 4, **GROUP32}, vocabulary=vocabulary, mels=mels)
    ggml.export(packed, tmp_path / "model.bin")
    options = {"n_threads": 1, "print_progress": False, "redirect_whispercpp_logs_to": str(tmp_path / "log")}
    loaded = model.Model(str(tmp_path / "model.bin"), language="en", max_tokens=4, temperature_inc=0.0, **options)
    segments = loaded.transcribe(tiny.sound(), no_timestamps=True)
    assert "".join(segment.text for segment in segments)
    assert model.pw.whisper_is_multilingual(loaded._ctx) == (vocabulary > 51864)
