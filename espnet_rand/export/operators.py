"""The operators of ONNX that compute with the codes of a packed weight.

Codes are in the file as they are packed: int4 up to 4 bits, int8 above, a row for each output channel. ONNX Runtime
casts, transposes and shifts them once, when it loads the file: it folds constants. Only MatMulNBits has its own order.

Activations become 8-bit integers from 0 to 255. On x86 processors without VNNI, their products with signed weights are
added in pairs in 16 bits, which saturate. 2 * 255 * 64 = 32,640 fits: codes of 7 bits and fewer never saturate. Those
of 8 bits are shifted to 0 ... 255, with a zero point of 128: two unsigned operands are widened to 16 bits first.
ConvInteger is quick with unsigned weights alone, so that its codes are always shifted.

Grids other than the symmetric one become it, of a bit more. MatMulNBits has zero points of its own.
"""

import math
from dataclasses import replace
from typing import Any, Collection, Dict, List, Tuple

import ml_dtypes
import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from espnet_rand.export.codes import ExportError, block_scales, code_matrix, in_blocks, misfit, symmetric
from espnet_rand.packing import PackedWeight
from espnet_rand.quantizers import PerColumn, PerGroup, PerTensor, Rotation

_BLOCKS = (256, 128, 64, 32, 16)  # of MatMulNBits
_MICROSOFT = "com.microsoft"
#: How a weight is computed with that is cast to float when the file is loaded.
DECODED = "decoded when loaded"


class Writer:
    """Nodes and constants that take the place of symbols.

    Args:
        exact: multiply in float with the decoded weights

    Attributes:
        nodes: in their order
        constants: by their names
        ways: how each weight is computed with, by its name
    """

    def __init__(self, exact: bool = False):
        self.exact = exact
        self.nodes: List[NodeProto] = []
        self.constants: Dict[str, TensorProto] = {}
        self.ways: Dict[str, str] = {}
        self._made: Dict[Tuple, List[str]] = {}

    def constant(self, name: str, array: Any) -> str:
        """The name of a constant, which is made where it is not there."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def shape(self, *sizes: int) -> str:
        """The name of a constant vector."""
        return self.constant(f"espnet_rand.shape.{'.'.join(map(str, sizes))}", np.array(sizes, dtype=np.int64))

    def add(self, operator: str, *inputs: str, outputs: Any = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node, or find the same one.

        Args:
            outputs: how many, or the names that they must have

        Returns:
            the output's name; the names, where there are several
        """
        key = (operator, inputs, repr(attributes))
        if isinstance(outputs, int) and key in self._made:
            made = self._made[key]
        else:
            made = (
                outputs if isinstance(outputs, list) else [f"espnet_rand.{len(self.nodes)}.{i}" for i in range(outputs)]
            )
            self.nodes.append(helper.make_node(operator, inputs, made, domain=domain, **attributes))
            self._made.setdefault(key, made)
        return made[0] if len(made) == 1 else made


def check(name: str, weight: PackedWeight, operators: Collection[str], exact: bool) -> None:
    """Raises ExportError: the operators that a weight is for cannot compute with it."""
    turned = replace(weight, rotation=Rotation())
    if symmetric(weight) is None:
        raise ExportError(f"{name}: {misfit(turned, None)}. Fix: train or calibrate with 7 bits")
    if "Linear" in operators and _group(weight) and not exact and (why := misfit(turned, _BLOCKS[-1])):
        raise ExportError(
            f"{name}: {why}. Fix: train or calibrate in groups of 16, 32, 64, 128 or 256 (or export_onnx --exact true)"
        )


def write(to: Writer, symbol: NodeProto, name: str, weight: PackedWeight) -> None:
    """Write what stands in the place of a symbol, which names a weight that `check` has seen."""
    blocks = weight.grid.shifted and _group(weight) and not to.exact and symbol.op_type != "Convolution"
    plain = replace(weight if blocks else symmetric(weight), rotation=Rotation())
    if weight.rotation == Rotation() or weight.shape_channels_first[1] % 2:  # an odd number of inputs is not rotated
        OPERATORS[symbol.op_type](to, symbol, name, plain)
        return
    inputs, turned = weight.shape_channels_first[1], NodeProto()
    turned.CopyFrom(symbol)
    if symbol.op_type == "Lookup":
        turned.output[0] = f"{symbol.output[0]}.rotated"
        lookup(to, turned, name, plain)
        _rotate(to, turned.output[0], weight.rotation, inputs, outputs=[*symbol.output])
        return
    axes = len(weight.shape) if symbol.op_type == "Convolution" else 0
    last = [0, *range(2, axes), 1]  # where the axis of inputs is the last one
    x = symbol.input[0]
    x = to.add("Transpose", x, perm=last) if axes else x
    x = _rotate(to, x, weight.rotation, inputs)
    turned.input[0] = to.add("Transpose", x, perm=[0, axes - 1, *range(1, axes - 1)]) if axes else x
    OPERATORS[symbol.op_type](to, turned, name, plain)


def _rotate(to: Writer, x: str, rotation: Rotation, inputs: int, outputs: Any = 1) -> str:
    """Rotate the last axis of x, of `inputs` numbers or a multiple of them."""
    matrix = rotation(torch.eye(inputs)).numpy()
    size = int((matrix[0] != 0).sum())
    block = to.constant(f"espnet_rand.rotation.{size}", matrix[:size, :size])
    turned = to.add("MatMul", to.add("Reshape", x, to.shape(-1, size)), block)
    return to.add("Reshape", turned, to.add("Shape", x), outputs=outputs)


def linear(to: Writer, symbol: NodeProto, name: str, weight: PackedWeight) -> None:
    """Write a linear map, (..., inputs) -> (..., outputs)."""
    if to.exact:
        matrix = to.add("Transpose", _decoded(to, name, weight, code_matrix(weight).shape), perm=[1, 0])
        to.add("MatMul", symbol.input[0], matrix, outputs=[*symbol.output])
        to.ways[name] = DECODED
    elif _group(weight):
        _blocks(to, symbol, name, weight)
    else:
        _integers(to, symbol, name, weight)


def _group(weight: PackedWeight) -> int:
    """The number of weights in a group, where a row has several groups; else 0."""
    size = weight.granularity.group_size if isinstance(weight.granularity, PerGroup) else 0
    return size if size < weight.matrix_shape[1] else 0


def _integers(to: Writer, symbol: NodeProto, name: str, weight: PackedWeight) -> None:
    """By MatMulInteger, with one scale for each output, or one for each input, by which the input is multiplied."""
    x, scales = symbol.input[0], weight.wide_scales.float().numpy()
    columns = isinstance(weight.granularity, PerColumn)
    if columns:
        x = to.add("Mul", x, to.constant(f"{name}.columns", scales))
    quantized, step, zero = to.add("DynamicQuantizeLinear", x, outputs=3)
    codes = to.constant(name, _array(weight, code_matrix(weight).shape))
    if weight.bits == 8:
        matrix, shift = _unsigned(to, codes), [_zero(to)]
    else:
        matrix, shift = to.add("Cast", codes, to=TensorProto.INT8), []
    product = to.add("MatMulInteger", quantized, to.add("Transpose", matrix, perm=[1, 0]), zero, *shift)
    steps = step if columns else to.add("Mul", step, to.constant(f"{name}.steps", scales))
    to.add("Mul", to.add("Cast", product, to=TensorProto.FLOAT), steps, outputs=[*symbol.output])
    to.ways[name] = "MatMulInteger"


def _blocks(to: Writer, symbol: NodeProto, name: str, weight: PackedWeight) -> None:
    """By MatMulNBits of com.microsoft, which has scales for blocks of a row; activations have 8 bits."""
    codes, scales, bits, block = _block_constants(to, name, weight)
    zeros = []
    if weight.zeros is not None:
        zeros = [to.constant(f"{name}.packed_zeros", _bytes(_zeros(weight, bits, block), bits).reshape(-1))]
    to.add(
        "MatMulNBits",
        symbol.input[0],
        codes,
        scales,
        *zeros,
        outputs=[*symbol.output],
        domain=_MICROSOFT,
        K=weight.matrix_shape[1],
        N=weight.matrix_shape[0],
        bits=bits,
        block_size=block,
        accuracy_level=4,
    )
    to.ways[name] = f"MatMulNBits, {bits} bits in blocks of {block}"


def _block_constants(to: Writer, name: str, weight: PackedWeight) -> Tuple[str, str, int, int]:
    """The codes in blocks, (channels, blocks, bytes), and their scales, (channels, blocks).

    Returns:
        both names, the bits of a code, the first in a byte's lowest, and the codes in a block
    """
    size = _group(weight)
    block = next(block for block in _BLOCKS if size % block == 0)
    bits = 2 if weight.bits == 2 else 4 if weight.bits <= 4 else 8
    channels, length = code_matrix(weight).shape
    filled = np.zeros((channels, -(-length // block) * block), dtype=np.int16)
    filled[:, :length] = code_matrix(weight).numpy()
    unsigned = (filled + 2 ** (bits - 1)).astype(np.uint8)
    codes = _bytes(unsigned, bits).reshape(channels, -1, block * bits // 8)
    scales = block_scales(weight, block).numpy()
    return to.constant(f"{name}.blocks", codes), to.constant(f"{name}.block_scales", scales), bits, block


def _zeros(weight: PackedWeight, bits: int, block: int) -> np.ndarray:
    """The unsigned zero points of MatMulNBits, uint8 (channels, blocks)."""
    zeros = torch.zeros_like(weight.scales) if weight.zeros is None else weight.zeros
    return (in_blocks(weight, zeros.short(), block) + 2 ** (bits - 1)).to(torch.uint8).numpy()


def _bytes(unsigned: np.ndarray, bits: int) -> np.ndarray:
    """Rows of unsigned codes of 2, 4 or 8 bits as bytes, the first in a byte's lowest bits; zeros fill the last."""
    filled = np.pad(unsigned, ((0, 0), (0, -unsigned.shape[1] % (8 // bits))))
    parts = filled.reshape(len(filled), -1, 8 // bits)
    return np.bitwise_or.reduce(parts << np.arange(0, 8, bits, dtype=np.uint8), axis=-1)


def convolution(to: Writer, symbol: NodeProto, name: str, weight: PackedWeight) -> None:
    """Write a convolution: on integers where each output has one scale and more than one input, else decoded."""
    options = {a.name: helper.get_attribute_value(a) for a in symbol.attribute if a.name != "weight"}
    mixed = _group(weight) or isinstance(weight.granularity, PerColumn) or options["group"] > 1
    if to.exact or mixed or weight.shape_channels_first[1] == 1:
        decoded = _decoded(to, name, weight, weight.shape_channels_first)
        to.add("Conv", symbol.input[0], decoded, outputs=[*symbol.output], **options)
        to.ways[name] = DECODED
        return
    quantized, step, zero = to.add("DynamicQuantizeLinear", symbol.input[0], outputs=3)
    codes = to.constant(name, _array(weight, weight.shape_channels_first))
    product = to.add("ConvInteger", quantized, _unsigned(to, codes), zero, _zero(to), **options)
    scales = weight.wide_scales.float().numpy().reshape(-1, *[1] * (len(weight.shape_channels_first) - 2))
    steps = to.add("Mul", step, to.constant(f"{name}.steps", scales))
    to.add("Mul", to.add("Cast", product, to=TensorProto.FLOAT), steps, outputs=[*symbol.output])
    to.ways[name] = "ConvInteger"


def lookup(to: Writer, symbol: NodeProto, name: str, weight: PackedWeight) -> None:
    """Write a lookup of rows, which alone are decoded: integers (...) -> (..., dimensions)."""
    if _group(weight) and not to.exact and not misfit(weight, _BLOCKS[-1]):
        _lookup_blocks(to, symbol, name, weight)
        return
    weight = symmetric(weight)
    indices = symbol.input[0]
    scales, block = _scales(weight)
    codes = to.add("Cast", to.constant(name, _array(weight, code_matrix(weight).shape)), to=TensorProto.INT8)
    codes = to.add("Reshape", codes, to.shape(weight.matrix_shape[0], -1, block))
    rows = to.add("Cast", to.add("Gather", codes, indices), to=TensorProto.FLOAT)
    factors = to.constant(f"{name}.scales", scales)
    factors = to.add("Gather", factors, indices) if len(scales) > 1 else to.add("Squeeze", factors, to.shape(0))
    whole = to.add("Concat", to.add("Shape", indices), to.shape(-1), axis=0)
    to.add("Reshape", to.add("Mul", rows, factors), whole, outputs=[*symbol.output])
    to.ways[name] = "Gather"


def _lookup_blocks(to: Writer, symbol: NodeProto, name: str, weight: PackedWeight) -> None:
    """The same on the constants of MatMulNBits, which a linear map with the same weight has as well."""
    indices = symbol.input[0]
    codes, scales, bits, block = _block_constants(to, name, weight)
    rows, last = to.add("Gather", codes, indices), to.shape(-1)
    mask = to.constant(f"espnet_rand.mask.{bits}", np.uint8(2**bits - 1))
    shifts = [to.constant(f"espnet_rand.shift.{shift}", np.uint8(shift)) for shift in range(0, 8, bits)]
    parts = [to.add("BitwiseAnd", to.add("BitShift", rows, shift, direction="RIGHT"), mask) for shift in shifts]
    together = to.add("Concat", *(to.add("Unsqueeze", part, last) for part in parts), axis=-1)
    shape = to.add("Shape", indices)
    blocks = to.add("Reshape", together, to.add("Concat", shape, to.shape(-1, block), axis=0))
    values = to.add("Cast", blocks, to=TensorProto.FLOAT)
    if weight.zeros is None:
        zeros = to.constant(f"espnet_rand.centre.{bits}", np.float32(2 ** (bits - 1)))
    else:
        of_blocks = to.add("Gather", to.constant(f"{name}.block_zeros", _zeros(weight, bits, block)), indices)
        zeros = to.add("Unsqueeze", to.add("Cast", of_blocks, to=TensorProto.FLOAT), last)
    centred = to.add("Sub", values, zeros)
    decoded = to.add("Mul", centred, to.add("Unsqueeze", to.add("Gather", scales, indices), last))
    whole = to.add("Reshape", decoded, to.add("Concat", shape, last, axis=0))
    to.add("Slice", whole, to.shape(0), to.shape(weight.matrix_shape[1]), last, outputs=[*symbol.output])
    to.ways[name] = "Gather"


#: By the symbols' operators.
OPERATORS = {"Linear": linear, "Convolution": convolution, "Lookup": lookup}


def _decoded(to: Writer, name: str, weight: PackedWeight, shape: Tuple[int, ...]) -> str:
    """The weight in float, of `shape`, as the file's reader decodes it.

    (DequantizeLinear is none: ONNX Runtime makes MatMulNBits of it, with 8-bit activations.)
    """
    scales, block = _scales(weight)
    codes = to.add("Cast", to.constant(name, _array(weight, shape)), to=TensorProto.FLOAT)
    codes = to.add("Reshape", codes, to.shape(shape[0], -1, block))
    return to.add("Reshape", to.add("Mul", codes, to.constant(f"{name}.scales", scales)), to.shape(*shape))


def _scales(weight: PackedWeight) -> Tuple[np.ndarray, int]:
    """Scales and a size of block: codes as (channels, blocks, size of block), times the scales, are the weight."""
    length = weight.matrix_shape[1]
    if isinstance(weight.granularity, PerColumn):
        return weight.wide_scales.float().numpy().reshape(1, 1, length), length
    if isinstance(weight.granularity, PerTensor):
        return weight.wide_scales.float().numpy().reshape(1, 1, 1), length
    block = math.gcd(_group(weight), length)
    return block_scales(weight, block).numpy()[..., None], block


def _array(weight: PackedWeight, shape: Tuple[int, ...]) -> np.ndarray:
    codes = code_matrix(weight).numpy().reshape(shape)
    return codes.astype(ml_dtypes.int4) if weight.bits <= 4 else codes


def _unsigned(to: Writer, codes: str) -> str:
    """The codes plus 128, uint8."""
    shift = to.constant("espnet_rand.shift", np.int32(128))
    return to.add("Cast", to.add("Add", to.add("Cast", codes, to=TensorProto.INT32), shift), to=TensorProto.UINT8)


def _zero(to: Writer) -> str:
    return to.constant("espnet_rand.zero_point", np.uint8(128))
