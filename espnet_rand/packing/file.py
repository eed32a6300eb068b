"""The packed file: safetensors, with integer codes at their true width. FORMAT.md describes it."""

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from espnet_rand.atomic import replacing
from espnet_rand.errors import NotFiniteError, UserError
from espnet_rand.layers.convolution import channels_second
from espnet_rand.layers.finite import is_finite
from espnet_rand.options import OptionError, a_precision
from espnet_rand.packing.bits import row_bytes, unpack
from espnet_rand.quantizers import GRANULARITIES, GRIDS, Grid, PerGroup, grid_name, wrong_steps
from espnet_rand.quantizers.granularity import Granularity

FORMAT_VERSION = 2
#: What is said of files of version 1.
OLD_FORMAT = (
    "its format is version 1. Started with plain python, ESPnet takes such a file for a checkpoint, and computes with "
    "random weights. Fix: pack the checkpoint again"
)
_KEY = "espnet_rand"
_SCALES = ".scales"
_DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}
# of scales, and of other tensors
_MOST_AXES = 32
_FLOATS = ("F32", "F64", "F16", "BF16")
_PLAIN = (*_FLOATS, "C64", "BOOL", "U8", "U16", "U32", "U64", "I8", "I16", "I32", "I64")
# what the header has beside what `PackedModel.info` is
_OWN = ("format_version", "weights", "aliases", "infinite", "sha256")


class PackedFileError(UserError, ValueError):
    """The file is not a packed model, is damaged, or does not fit; the message says where."""


@dataclass(frozen=True)
class PackedWeight:
    """One weight as integer codes.

    Attributes:
        packed: the codes with output channels first, uint8, (channels, row_bytes), see `espnet_rand.packing.bits`
        scales: step sizes, (groups,)
        grid: what the codes stand for
        shape: the parameter's, in its layer
        granularity: which codes share a scale
        dtype: of the decoded weight
        transposed: of a transposed convolution, its number of groups; else 0
    """

    packed: Tensor
    scales: Tensor
    grid: Grid
    shape: Tuple[int, ...]
    granularity: Granularity
    dtype: torch.dtype = torch.float32
    transposed: int = 0

    @property
    def bits(self) -> int:
        """Of a code."""
        return self.grid.bits

    @property
    def shape_channels_first(self) -> Tuple[int, ...]:
        """Shape with the output channels first."""
        return _channels_first(self.shape, self.transposed)

    def codes(self) -> Tensor:
        """int8, of shape `rows`."""
        return unpack(self.packed, self.bits, math.prod(self.shape_channels_first[1:])).view(self.shape_channels_first)

    @property
    def wide_scales(self) -> Tensor:
        """The scales in the dtype of the product, float32 at least."""
        return self.scales.to(torch.promote_types(self.scales.dtype, torch.float32))

    def values(self) -> Tensor:
        """The weight, of `shape` and `dtype`."""
        rows = self._scaled(self.wide_scales).to(self.dtype)
        return channels_second(rows, self.transposed) if self.transposed else rows

    def _scaled(self, scales: Tensor) -> Tensor:
        return self.granularity.scaled(self.grid.levels(self.codes()), scales)

    def fault(self) -> str:
        """Why it cannot be computed with: step sizes that no grid has, or decoded numbers that are infinite; or empty.

        A step size of 0 is allowed where all its codes stand for 0.
        """
        scales, largest = self.wide_scales, -self.grid.low
        wrong, zero = wrong_steps(scales), scales == 0
        if zero.any() and not self._scaled(zero.float()).any():
            wrong &= ~zero
        if wrong.any():
            return f"{int(wrong.sum())} of {len(scales)} scales are NaN, infinite, negative or 0"
        if not (scales.amax() * largest).to(self.dtype).isfinite() and not self.values().isfinite().all():
            return (
                f"its scales are too large for {str(self.dtype).removeprefix('torch.')}: it decodes to infinite numbers"
            )
        return ""

    @property
    def bytes(self) -> int:
        """Of codes and scales."""
        return self.packed.numel() + self.scales.numel() * self.scales.element_size()

    def describe(self) -> Dict[str, Any]:
        """Everything but the tensors, as the file's metadata hold it."""
        about = {"shape": [*self.shape], "bits": self.bits, "dtype": str(self.dtype).removeprefix("torch.")}
        about["granularity"] = next(n for n, kind in GRANULARITIES.items() if kind is type(self.granularity))
        if isinstance(self.granularity, PerGroup):
            about["group_size"] = self.granularity.group_size
        if name := grid_name(type(self.grid)):
            about["grid"] = name
        if self.transposed:
            about["transposed"] = self.transposed
        return about


def _channels_first(shape: Sequence[int], transposed: int) -> Tuple[int, ...]:
    if not transposed:
        return tuple(shape)
    inputs, outputs, *kernel = shape
    return (outputs * transposed, inputs // transposed, *kernel)


@dataclass(frozen=True)
class PackedModel:
    """What a packed file holds.

    Attributes:
        weights: the quantized ones, by their names in the model's state_dict
        floats: the rest of the state_dict
        aliases: names of the state_dict that are the same tensor as another -> that one
        info: versions and the resolved quantizer options; nothing depends on them
        version: of the format that it was read from
    """

    weights: Dict[str, PackedWeight]
    floats: Dict[str, Tensor]
    aliases: Dict[str, str] = field(default_factory=dict)
    info: Dict[str, Any] = field(default_factory=dict)
    version: int = FORMAT_VERSION

    def average_bits(self, plan: Optional[Mapping[str, int]] = None) -> float:
        """Bits in the mean over all quantized weights: those of the codes, or of a plan that names all."""
        numbers = {name: math.prod(weight.shape) for name, weight in self.weights.items()}
        bits = plan or {name: weight.bits for name, weight in self.weights.items()}
        return sum(bits[name] * number for name, number in numbers.items()) / sum(numbers.values())

    def state_dict(self) -> Dict[str, Tensor]:
        """The float model's, with decoded weights: they lie on the integer grid."""
        state = {**self.floats, **{name: weight.values() for name, weight in self.weights.items()}}
        state.update({alias: state[name] for alias, name in self.aliases.items()})
        return state


def write_packed(path: Union[str, Path], model: PackedModel) -> None:
    """Write a packed file: to a temporary name, then renamed.

    Raises:
        NotFiniteError: a tensor has a NaN
        PackedFileError: names of the model that the format needs for itself
    """
    infinite = sorted(name for name, tensor in model.floats.items() if not is_finite(tensor))
    if both := sorted({name + _SCALES for name in model.weights} & model.floats.keys()):
        raise PackedFileError(f"{both[0]} is a tensor of the model, and where the file has the scales of a weight")
    if wrong := [name for name in infinite if model.floats[name].isnan().any()]:
        raise NotFiniteError(f"NaN: numbers in {', '.join(wrong[:3])}. Fix: pack another checkpoint")
    tensors = dict(model.floats)
    for name, weight in model.weights.items():
        # under the weight's own name, but of another shape: no program loads them as the weight
        tensors[name], tensors[name + _SCALES] = (
            weight.packed.reshape(_stored(weight.shape, weight.packed.numel())),
            weight.scales,
        )
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


def _stored(shape: Sequence[int], size: int) -> List[int]:
    """The shape that `size` bytes of codes have in a file: flat, unlike a weight matrix (for a vector: two axes)."""
    return [size] if len(shape) > 1 else [size, 1]


def is_packed(path: Union[str, Path]) -> bool:
    """Whether a file is in the safetensors format (an 8-byte length, then JSON); pickles and zip files are not."""
    with open(path, "rb") as f:
        return f.read(9)[8:] == b"{"


def read_packed(path: Union[str, Path]) -> PackedModel:
    """Read a packed file. Nothing is unpickled; shapes, names and sizes are checked before tensors are read.

    The tensors are copies: what becomes of the file later does not matter.

    Raises:
        PackedFileError: cut off, altered, not a packed file, or of a later version
    """
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            return _read(path, file)
    except (SafetensorError, OSError, UnicodeError, RecursionError) as e:
        if isinstance(e, FileNotFoundError):
            raise
        raise PackedFileError(f"{path}: not a packed model, or cut off: {e}") from None


def _read(path: Union[str, Path], file: Any) -> PackedModel:
    def refuse(why: str):
        return PackedFileError(f"{path}: {why.splitlines()[0]}")  # torch's own have many lines

    try:
        header = json.loads((file.metadata() or {})[_KEY])
        version, described, aliases = header["format_version"], header["weights"], header["aliases"]
    except (KeyError, TypeError, ValueError):
        raise refuse("a safetensors file, but not one of espnet_rand") from None
    if type(version) is not int or version not in (1, FORMAT_VERSION):
        raise refuse(f"format version {version!r}; this espnet_rand reads up to {FORMAT_VERSION}: update it")
    suffix = ".codes" if version == 1 else ""
    names = set(file.keys())
    if not isinstance(described, Mapping) or not isinstance(aliases, Mapping) or not _names(header.get("infinite", [])):
        raise refuse("the lists of weights, aliases and infinite tensors are damaged")
    described_weights = {}
    for name, about in described.items():
        try:
            described_weights[name] = _check_weight(name, about, file, suffix)
        except KeyError as e:
            raise refuse(f"{name}: its description lacks {e}") from None
        except (TypeError, ValueError, RuntimeError, OptionError) as e:
            raise refuse(f"{name}: {e}") from None
    if odd := [name for name in (*names, *described, *aliases) if not name.isprintable()]:
        raise refuse(f"{ascii(odd[0])} is no name of a tensor")
    for name in sorted(names):
        about = file.get_slice(name)
        if about.get_dtype() not in _PLAIN or len(about.get_shape()) > _MOST_AXES:
            raise refuse(f"{name} is {about.get_dtype()} of {len(about.get_shape())} axes, which no model has")
    if version == 1 and (both := sorted(names & described.keys())):
        raise refuse(f"{both[0]} is there as codes and as numbers")
    known = set(described) | (names - {name + end for name in described for end in (suffix, _SCALES)})
    for alias, name in aliases.items():
        if alias in known or not isinstance(name, str) or name not in known:
            raise refuse(f"{alias} is said to be the same as {name}, which cannot be")
    try:
        tensors = {name: file.get_tensor(name) for name in sorted(names)}
        checksum = _checksum(header, tensors)
    except (TypeError, RuntimeError) as e:
        raise refuse(f"a tensor whose dtype or shape torch does not have: {e}") from None
    if header.get("sha256") != checksum:
        raise refuse("the checksum does not fit: the file was altered or damaged. Fix: pack or copy it again")
    weights = {}
    for name, make in described_weights.items():
        weights[name] = make(tensors.pop(name + suffix), tensors.pop(name + _SCALES))
        if fault := weights[name].fault():
            raise refuse(f"{name}: {fault}. Fix: pack a checkpoint whose weights are finite")
    allowed = header.get("infinite", [*tensors] if version == 1 else [])
    for name, tensor in tensors.items():
        if not is_finite(tensor) and (name not in allowed or tensor.isnan().any()):
            raise refuse(f"{name}: not finite: numbers that are NaN or infinite. Fix: pack another checkpoint")
    if version == 1:
        logging.warning(f"espnet_rand: {path}: {OLD_FORMAT}")
    info = {k: v for k, v in header.items() if k not in _OWN}
    return PackedModel(weights, tensors, dict(aliases), info, version)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _check_weight(name: str, about: Any, file: Any, suffix: str) -> Callable[[Tensor, Tensor], PackedWeight]:
    """Check one weight's description against the tensors' dtypes and shapes; return what makes the weight of them.

    Args:
        suffix: what the weight's name is followed by in that of its codes
    """
    shape, bits, transposed = about["shape"], about["bits"], about.get("transposed", 0)
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"shape {shape!r} must be a list of positive numbers")
    if not a_precision.holds(bits):
        raise ValueError(f"{bits!r} bits; it must be {a_precision.allowed}")
    if type(transposed) is not int or transposed < 0 or (transposed and (len(shape) < 2 or shape[0] % transposed)):
        raise ValueError(f"transposed {transposed!r} does not divide shape {shape}")
    kind, dtype = GRANULARITIES.get(about["granularity"]), _DTYPES.get(about["dtype"])
    if kind is None or dtype is None:
        raise ValueError(f"unknown granularity {about['granularity']!r} or dtype {about['dtype']!r}")
    grid = GRIDS.get(about.get("grid", "symmetric"))
    if grid is None:
        raise ValueError(f"unknown grid {about['grid']!r}: update espnet_rand")
    granularity = kind(about["group_size"]) if kind is PerGroup else kind()
    rows = _channels_first(shape, transposed)
    groups = granularity.groups(torch.empty(rows, device="meta"))
    matrix = (rows[0], row_bytes(math.prod(rows[1:]), bits))
    stored = [*matrix] if suffix else _stored(shape, math.prod(matrix))
    for end, dtypes, size in ((suffix, ["U8"], stored), (_SCALES, [*_FLOATS], [groups])):
        if name + end not in file.keys():  # noqa: SIM118 (no dict)
            raise ValueError(f"there is no tensor {name + end}")
        found = file.get_slice(name + end)
        if found.get_dtype() not in dtypes or found.get_shape() != size:
            raise ValueError(f"{name + end} is {found.get_dtype()} {found.get_shape()}; it must be {dtypes[0]} {size}")

    def make(codes: Tensor, scales: Tensor) -> PackedWeight:
        return PackedWeight(codes.view(matrix), scales, grid(bits), tuple(shape), granularity, dtype, transposed)

    return make


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header but for the checksum (JSON, sorted keys), and of each tensor by name."""
    rest = {k: v for k, v in header.items() if k != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
