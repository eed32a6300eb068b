"""The packed file: safetensors, with integer codes at their true width. FORMAT.md describes it."""

import hashlib
import json
import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type, Union

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from espnet_rand.atomic import replacing
from espnet_rand.errors import NotFiniteError, UserError
from espnet_rand.layers.convolution import channels_second
from espnet_rand.layers.finite import is_finite
from espnet_rand.options import OptionError, a_precision
from espnet_rand.packing.bits import pack, row_bytes, unpack
from espnet_rand.quantizers import (
    GRANULARITIES,
    GRIDS,
    ROTATIONS,
    Grid,
    PerGroup,
    Rotation,
    Steps,
    grid_name,
    rotation_name,
    wrong_steps,
)
from espnet_rand.quantizers.granularity import Granularity

FORMAT_VERSION = 2
#: A warning's words for files of version 1.
OLD_FORMAT = (
    "its format is version 1. Started with plain python, ESPnet takes such a file for a checkpoint, and computes with "
    "random weights. Fix: pack the checkpoint again"
)
_KEY = "espnet_rand"
_SCALES, _ZEROS = ".scales", ".zeros"
_DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}
_MOST_AXES = 32
# dtypes of scales, and of other tensors
_FLOATS = ("F32", "F64", "F16", "BF16")
_PLAIN = (*_FLOATS, "C64", "BOOL", "U8", "U16", "U32", "U64", "I8", "I16", "I32", "I64")
# keys of the header that are not `PackedModel.info`
_OWN = ("format_version", "weights", "aliases", "infinite", "sha256")


class PackedFileError(UserError, ValueError):
    """The file is no packed model, is damaged, or does not fit; the message says where."""


@dataclass(frozen=True)
class PackedWeight:
    """One weight as integer codes.

    Attributes:
        packed: the codes with output channels first, uint8, (channels, row_bytes), see `espnet_rand.packing.bits`
        scales: step sizes, (groups,)
        grid: says what the codes stand for
        shape: the shape of the parameter in its layer
        granularity: says which codes share a scale
        dtype: the dtype of the decoded weight
        transposed: the number of groups of a transposed convolution; else 0
        zeros: zero points, int8, (groups,); None: the grid has none
        rotation: that of the weight before it was rounded
    """

    packed: Tensor
    scales: Tensor
    grid: Grid
    shape: Tuple[int, ...]
    granularity: Granularity
    dtype: torch.dtype = torch.float32
    transposed: int = 0
    zeros: Optional[Tensor] = None
    rotation: Rotation = Rotation()

    @property
    def bits(self) -> int:
        """The bits of a code."""
        return self.grid.bits

    @property
    def shape_channels_first(self) -> Tuple[int, ...]:
        """The weight's shape with the output channels first."""
        return _channels_first(self.shape, self.transposed)

    @property
    def matrix_shape(self) -> Tuple[int, int]:
        """The shape of the weight as a matrix: output channels, and weights of each."""
        channels, *rest = self.shape_channels_first
        return channels, math.prod(rest)

    def codes(self) -> Tensor:
        """The codes, int8, with the output channels first."""
        return unpack(self.packed, self.bits, self.matrix_shape[1]).view(self.shape_channels_first)

    @property
    def wide_scales(self) -> Tensor:
        """The scales in the dtype that they are multiplied in, float32 at least."""
        return self.scales.to(torch.promote_types(self.scales.dtype, torch.float32))

    def values(self) -> Tensor:
        """The decoded weight, of `shape` and `dtype`."""
        weight = self.rotation.back(self.rotated(self.wide_scales)).to(self.dtype)
        return channels_second(weight, self.transposed) if self.transposed else weight

    def rotated(self, scales: Tensor) -> Tensor:
        """The numbers that the codes stand for with `scales`, output channels first: the rotated weight."""
        return self.granularity.decoded(self.codes(), self.grid, Steps(scales, self.zeros))

    def integers(self) -> Tuple[Tensor, Tensor]:
        """The rotated weight as integers, int8 where they fit and else int16, channels first, and positive scales.

        The integers times the scales of their groups are what the codes stand for, exactly. The grid must have them.
        """
        if type(self.grid) is Grid:
            return self.codes(), self.wide_scales
        whole = self.rotated(self.wide_scales.sign() * self.grid.parts).to(torch.int16)
        least, most = whole.aminmax()
        whole = whole.to(torch.int8) if least >= -128 and most <= 127 else whole
        return whole, self.wide_scales.abs() / self.grid.parts

    def fault(self) -> str:
        """The reason why nothing can compute with it; empty: there is none.

        Step sizes may be wrong, or decoded numbers infinite. A step size of 0 is right where all its codes stand for 0.
        """
        scales = self.wide_scales
        wrong, zero = wrong_steps(scales, self.grid), scales == 0
        if zero.any() and not self.rotated(zero.float()).any():
            wrong &= ~zero
        if wrong.any():
            signs = "" if self.grid.signed else "negative "
            return f"{int(wrong.sum())} of {len(scales)} scales are NaN, infinite, {signs}or 0"
        inputs = (self.matrix_shape[1:] if self.rotation != Rotation() else (1,))[0]
        largest = scales.abs().amax() * 2 * self.grid.reach * inputs**0.5
        if not largest.to(self.dtype).isfinite() and not self.values().isfinite().all():
            return (
                f"its scales are too large for {str(self.dtype).removeprefix('torch.')}: it decodes to infinite numbers"
            )
        return ""

    @property
    def bytes(self) -> int:
        """The bytes of codes, scales and zero points."""
        zeros = 0 if self.zeros is None else row_bytes(len(self.zeros), self.bits)
        return self.packed.numel() + self.scales.numel() * self.scales.element_size() + zeros

    @property
    def rounding(self) -> str:
        """How it was rounded, for people to read: the granularity, the grid and the rotation, where they matter."""
        parts = [str(self.granularity)]
        parts += [] if type(self.grid) is Grid else [grid_name(type(self.grid))]
        parts += [] if self.rotation == Rotation() else [rotation_name(self.rotation)]
        return " ".join(parts)

    def describe(self) -> Dict[str, Any]:
        """A description of all but the tensors, as the file's metadata hold it."""
        about = {"shape": [*self.shape], "bits": self.bits, "dtype": str(self.dtype).removeprefix("torch.")}
        about["granularity"] = next(n for n, kind in GRANULARITIES.items() if kind is type(self.granularity))
        if isinstance(self.granularity, PerGroup):
            about["group_size"] = self.granularity.group_size
        if type(self.grid) is not Grid:
            about["grid"] = grid_name(type(self.grid))
        if self.rotation != Rotation():
            about["rotation"] = rotation_name(self.rotation)
        if self.transposed:
            about["transposed"] = self.transposed
        return about


def _channels_first(shape: Sequence[int], transposed: int) -> Tuple[int, ...]:
    """A weight's shape with the output channels first."""
    if not transposed:
        return tuple(shape)
    inputs, outputs, *kernel = shape
    return (outputs * transposed, inputs // transposed, *kernel)


@dataclass(frozen=True)
class PackedModel:
    """The content of a packed file.

    Attributes:
        weights: the quantized weights, by their names in the model's state_dict
        floats: the rest of the state_dict
        aliases: names of the state_dict whose tensor is that of another -> the other name
        info: versions and the resolved quantizer options; nothing depends on them
        version: version of the format that it was read from
    """

    weights: Dict[str, PackedWeight]
    floats: Dict[str, Tensor]
    aliases: Dict[str, str] = field(default_factory=dict)
    info: Dict[str, Any] = field(default_factory=dict)
    version: int = FORMAT_VERSION

    def average_bits(self, plan: Optional[Mapping[str, int]] = None) -> float:
        """The mean number of bits over all quantized weights, as they are or by a plan that names all; 0: of none."""
        numbers = {name: math.prod(weight.shape) for name, weight in self.weights.items()}
        bits = plan or {name: weight.bits for name, weight in self.weights.items()}
        return sum(bits[name] * number for name, number in numbers.items()) / max(sum(numbers.values()), 1)

    def state_dict(self) -> Dict[str, Tensor]:
        """The state_dict of the float model, with decoded weights, which lie on the integer grid."""
        state = {**self.floats, **{name: weight.values() for name, weight in self.weights.items()}}
        state.update({alias: state[name] for alias, name in self.aliases.items()})
        return state


def write_packed(path: Union[str, Path], model: PackedModel) -> None:
    """Write a packed file, to a temporary name that is then renamed.

    Raises:
        NotFiniteError: a tensor has a NaN
        PackedFileError: the model has a name that the format needs for itself
    """
    infinite = sorted(name for name, tensor in model.floats.items() if not is_finite(tensor))
    of_weights = {name + end for name, weight in model.weights.items() for end in _ends(weight.describe(), "")[1:]}
    if both := sorted(of_weights & (model.floats.keys() | model.weights.keys())):
        raise PackedFileError(f"{both[0]} is a tensor of the model, and the name of a weight's steps in the file")
    if wrong := [name for name in infinite if model.floats[name].isnan().any()]:
        raise NotFiniteError(f"NaN: numbers in {', '.join(wrong[:3])}. Fix: pack another checkpoint")
    tensors = dict(model.floats)
    for name, weight in model.weights.items():
        # under the weight's own name, but of another shape: no program loads them as the weight
        tensors[name] = weight.packed.reshape(_stored(weight.shape, weight.packed.numel()))
        tensors[name + _SCALES] = weight.scales
        if weight.zeros is not None:
            tensors[name + _ZEROS] = pack(weight.zeros[None], weight.bits)[0]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    header = {
        "format_version": FORMAT_VERSION,
        **model.info,
        "weights": {name: weight.describe() for name, weight in sorted(model.weights.items())},
        "aliases": dict(sorted(model.aliases.items())),
        "infinite": infinite,
    }
    header["sha256"] = _checksum(header, tensors)
    with replacing(path) as temporary:
        # (save_file would let nobody else read it)
        temporary.write_bytes(save(tensors, metadata={_KEY: json.dumps(header)}))


def _ends(about: Mapping[str, Any], suffix: str) -> List[str]:
    """The ends of the names of a weight's tensors, from its description: codes, scales, and perhaps zero points."""
    return [suffix, _SCALES, _ZEROS] if _grid(about).shifted else [suffix, _SCALES]


def _grid(about: Mapping[str, Any]) -> Type[Grid]:
    """The grid of a weight, from its description. Raises ValueError: it is not known."""
    return _known(GRIDS, "grid", about.get("grid", "symmetric"))


def _known(names: Mapping[str, Any], what: str, name: Any) -> Any:
    """What a name stands for. Raises ValueError: it is not known, or no name."""
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"unknown {what} {name!r}: update espnet_rand")
    return names[name]


def _stored(shape: Sequence[int], size: int) -> List[int]:
    """The shape of `size` bytes of codes in a file: one axis, or two for a weight of one. It is never the weight's."""
    return [size] if len(shape) > 1 else [size, 1]


def is_packed(path: Union[str, Path]) -> bool:
    """Whether a file is in the safetensors format (an 8-byte length, then JSON); pickles and zip files are not."""
    with open(path, "rb") as f:
        return f.read(9)[8:] == b"{"


def read_packed(path: Union[str, Path]) -> PackedModel:
    """Read a packed file. Nothing is unpickled; shapes, names and sizes are checked before tensors are read.

    The tensors are copies: the file may change later.

    Raises:
        PackedFileError: cut off, altered, not a packed file, or of a later version
    """
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            model = _read(file)
    except FileNotFoundError:
        raise
    except PackedFileError as e:
        raise PackedFileError(f"{path}: {str(e).splitlines()[0]}") from None  # torch's own have many lines
    except (SafetensorError, OSError, UnicodeError, RecursionError) as e:
        raise PackedFileError(f"{path}: not a packed model, or cut off: {e}") from None
    if model.version == 1:
        logging.warning(f"espnet_rand: {path}: {OLD_FORMAT}")
    return model


def _read(file: Any) -> PackedModel:
    """Read a packed model from an open file.

    Raises:
        PackedFileError: see `read_packed`; here and below the message does not name the file
    """
    header = _read_header(file)
    version = header["format_version"]
    suffix = ".codes" if version == 1 else ""
    makers = _check_weights(header, file, suffix)
    _check_tensors(header, file, suffix)
    tensors = _read_tensors(header, file)
    weights = {
        name: make(*(tensors.pop(name + end) for end in _ends(header["weights"][name], suffix)))
        for name, make in makers.items()
    }
    _check_numbers(weights, tensors, header.get("infinite", [*tensors] if version == 1 else []))
    info = {k: v for k, v in header.items() if k not in _OWN}
    return PackedModel(weights, tensors, dict(header["aliases"]), info, version)


def _read_header(file: Any) -> Dict[str, Any]:
    """Read the metadata; check the version, and that the lists are there."""
    try:
        header = json.loads((file.metadata() or {})[_KEY])
        version, described, aliases = header["format_version"], header["weights"], header["aliases"]
    except (KeyError, TypeError, ValueError):
        raise PackedFileError("a safetensors file, but not one of espnet_rand") from None
    if type(version) is not int or version not in (1, FORMAT_VERSION):
        raise PackedFileError(f"format version {version!r}; this espnet_rand reads up to {FORMAT_VERSION}: update it")
    if not isinstance(described, Mapping) or not isinstance(aliases, Mapping) or not _names(header.get("infinite", [])):
        raise PackedFileError("the lists of weights, aliases and infinite tensors are damaged")
    return header


def _check_weights(header: Mapping[str, Any], file: Any, suffix: str) -> Dict[str, Callable]:
    """Check the descriptions of all weights; return what makes the weights, see `_check_weight`."""
    makers = {}
    for name, about in header["weights"].items():
        try:
            makers[name] = _check_weight(name, about, file, suffix)
        except KeyError as e:
            raise PackedFileError(f"{name}: its description lacks {e}") from None
        except (TypeError, ValueError, RuntimeError, OptionError) as e:
            raise PackedFileError(f"{name}: {e}") from None
    return makers


def _check_tensors(header: Mapping[str, Any], file: Any, suffix: str) -> None:
    """Check the names of all tensors, what the aliases stand for, and the dtypes of the tensors."""
    names, described, aliases = set(file.keys()), header["weights"], header["aliases"]
    if odd := [name for name in (*names, *described, *aliases) if not name.isprintable()]:
        raise PackedFileError(f"{ascii(odd[0])} is no name of a tensor")
    for name in sorted(names):
        about = file.get_slice(name)
        if about.get_dtype() not in _PLAIN or len(about.get_shape()) > _MOST_AXES:
            raise PackedFileError(f"{name} is {about.get_dtype()} of {len(about.get_shape())} axes, which no model has")
    if suffix and (both := sorted(names & described.keys())):
        raise PackedFileError(f"{both[0]} is there as codes and as numbers")
    used = Counter(name + end for name, about in described.items() for end in _ends(about, suffix))
    if twice := [name for name, count in used.items() if count > 1]:
        raise PackedFileError(f"{twice[0]} is said to be of two weights")
    known = set(described) | (names - used.keys())
    for alias, name in aliases.items():
        if alias in known or not isinstance(name, str) or name not in known:
            raise PackedFileError(f"{alias} is said to be the same as {name}, which cannot be")


def _read_tensors(header: Mapping[str, Any], file: Any) -> Dict[str, Tensor]:
    """Read all tensors, and check the checksum."""
    try:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        checksum = _checksum(header, tensors)
    except (TypeError, RuntimeError) as e:
        raise PackedFileError(f"a tensor whose dtype or shape torch does not have: {e}") from None
    if header.get("sha256") != checksum:
        raise PackedFileError("the checksum does not fit: the file was altered or damaged. Fix: pack or copy it again")
    return tensors


def _check_numbers(weights: Mapping[str, PackedWeight], floats: Mapping[str, Tensor], infinite: Sequence[str]) -> None:
    """Check that all numbers are finite; tensors that `infinite` names may have infinite ones."""
    for name, weight in weights.items():
        if fault := weight.fault():
            raise PackedFileError(f"{name}: {fault}. Fix: pack a checkpoint whose weights are finite")
    for name, tensor in floats.items():
        if not is_finite(tensor) and (name not in infinite or tensor.isnan().any()):
            raise PackedFileError(f"{name}: not finite: numbers that are NaN or infinite. Fix: pack another checkpoint")


def _names(value: Any) -> bool:
    """Whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _check_weight(name: str, about: Any, file: Any, suffix: str) -> Callable[..., PackedWeight]:
    """Check one weight's description against the tensors' dtypes and shapes; return a function that makes the weight.

    Args:
        suffix: the end of the name of the codes, behind the weight's name
    """
    if not isinstance(about, Mapping):
        raise ValueError(f"its description is {about!r}, which must be an object")
    shape, bits, transposed = about["shape"], about["bits"], about.get("transposed", 0)
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"shape {shape!r} must be a list of positive numbers")
    if not a_precision.holds(bits):
        raise ValueError(f"{bits!r} bits; it must be {a_precision.allowed}")
    if type(transposed) is not int or transposed < 0 or (transposed and (len(shape) < 2 or shape[0] % transposed)):
        raise ValueError(f"transposed {transposed!r} does not divide shape {shape}")
    kind = _known(GRANULARITIES, "granularity", about["granularity"])
    dtype = _known(_DTYPES, "dtype", about["dtype"])
    grid, rotation = _grid(about), _known(ROTATIONS, "rotation", about.get("rotation", "none"))
    granularity = kind(about["group_size"]) if kind is PerGroup else kind()
    channels, *rest = _channels_first(shape, transposed)
    groups = granularity.groups(torch.empty(channels, *rest, device="meta"))
    packed = (channels, row_bytes(math.prod(rest), bits))
    stored = [*packed] if suffix else _stored(shape, math.prod(packed))
    right = {suffix: (["U8"], stored), _SCALES: ([*_FLOATS], [groups]), _ZEROS: (["U8"], [row_bytes(groups, bits)])}
    for end in _ends(about, suffix):
        dtypes, size = right[end]
        if name + end not in file.keys():  # noqa: SIM118 (no dict)
            raise ValueError(f"there is no tensor {name + end}")
        found = file.get_slice(name + end)
        if found.get_dtype() not in dtypes or found.get_shape() != size:
            raise ValueError(f"{name + end} is {found.get_dtype()} {found.get_shape()}; it must be {dtypes[0]} {size}")

    def make(codes: Tensor, scales: Tensor, zeros: Optional[Tensor] = None) -> PackedWeight:
        zeros = None if zeros is None else unpack(zeros[None], bits, groups)[0]
        return PackedWeight(
            codes.view(packed), scales, grid(bits), tuple(shape), granularity, dtype, transposed, zeros, rotation
        )

    return make


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the header but for the checksum (JSON, sorted keys), and of each tensor by name."""
    rest = {k: v for k, v in header.items() if k != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
