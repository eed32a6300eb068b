"""Integer codes of 2 to 8 bits in bytes, without gaps."""

import torch
from torch import Tensor

from espnet_rand.quantizers import largest_code
from espnet_rand.quantizers.rows import rowwise


def row_bytes(length: int, bits: int) -> int:
    """Bytes that `length` codes of `bits` bits take."""
    return -(-length * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes in [-Q-1, Q] (int8, (rows, length)) as bytes (uint8, (rows, row_bytes)).

    Code i of a row, plus Q + 1, is bits i * bits and following of the row, lowest bit first;
    byte j holds bits 8 j to 8 j + 7, lowest first. What is left of a row's last byte is zero.
    """
    return _pack(codes, bits)


def unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    """The codes (int8, (rows, length)) of which `pack` made `packed`."""
    return _unpack(packed, bits, length)


# Eight codes are `bits` whole bytes, which fit into one int64.


@rowwise
def _pack(codes: Tensor, bits: int) -> Tensor:
    rows, length = codes.shape
    unsigned = codes.to(torch.int64) + (largest_code(bits) + 1)
    eights = torch.nn.functional.pad(unsigned, (0, -length % 8)).view(rows, -(-length // 8), 8)
    words = (eights << (bits * torch.arange(8, device=codes.device))).sum(2, keepdim=True)
    octets = (words >> (8 * torch.arange(bits, device=codes.device))) & 255
    return octets.flatten(1)[:, : row_bytes(length, bits)].to(torch.uint8)


@rowwise
def _unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    rows, count = packed.shape
    octets = torch.nn.functional.pad(packed.to(torch.int64), (0, -count % bits)).view(rows, -(-count // bits), bits)
    words = (octets << (8 * torch.arange(bits, device=packed.device))).sum(2, keepdim=True)
    eights = (words >> (bits * torch.arange(8, device=packed.device))) & (2**bits - 1)
    return (eights.flatten(1)[:, :length] - (largest_code(bits) + 1)).to(torch.int8)
