"""Packs integer codes of 2 to 8 bits into bytes, without gaps."""

import torch
from torch import Tensor

from espnet_rand.quantizers import Grid
from espnet_rand.quantizers.rows import rowwise


def row_bytes(length: int, bits: int) -> int:
    """The bytes that `length` codes of `bits` bits take."""
    return -(-length * bits // 8)


# Eight codes are `bits` whole bytes; code i begins in byte i * bits // 8 and ends there or in the next one.


@rowwise
def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes in [-Q-1, Q] (int8, (rows, length)) into bytes (uint8, (rows, row_bytes)).

    Code i of a row, plus Q + 1, is in bits i * bits to i * bits + bits - 1 of the row, lowest bit first.
    Byte j holds bits 8 j to 8 j + 7, lowest first. The bits left over in a row's last byte are zero.
    """
    rows, length = codes.shape
    unsigned = codes.to(torch.int16) - Grid(bits).low
    eights = torch.nn.functional.pad(unsigned, (0, -length % 8)).view(rows, -(-length // 8), 8)
    octets = eights.new_zeros(rows, eights.shape[1], bits)
    for i in range(8):
        byte, shift = divmod(i * bits, 8)
        code = eights[:, :, i] << shift
        octets[:, :, byte] |= code & 255
        if shift + bits > 8:
            octets[:, :, byte + 1] |= code >> 8
    return octets.flatten(1)[:, : row_bytes(length, bits)].to(torch.uint8)


@rowwise
def unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    """Undo `pack`: bytes (uint8, (rows, row_bytes)) -> codes (int8, (rows, length))."""
    rows, count = packed.shape
    octets = torch.nn.functional.pad(packed, (0, -count % bits)).view(rows, -(-count // bits), bits)
    eights = octets.new_empty(rows, octets.shape[1], 8, dtype=torch.int8)
    for i in range(8):
        byte, shift = divmod(i * bits, 8)
        code = octets[:, :, byte].to(torch.int16) >> shift
        if shift + bits > 8:
            code |= octets[:, :, byte + 1].to(torch.int16) << (8 - shift)
        eights[:, :, i] = (code & (2**bits - 1)) + Grid(bits).low
    return eights.flatten(1)[:, :length]
