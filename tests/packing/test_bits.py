import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_rand.packing.bits import pack, row_bytes, unpack

pytestmark = pytest.mark.usefixtures("device")


@given(st.integers(2, 8), st.integers(0, 5), st.integers(0, 70), st.integers(0, 2**31))
def test_every_width_and_length_comes_back(bits, rows, length, seed):
    q = 2 ** (bits - 1) - 1
    codes = torch.randint(-q - 1, q + 1, (rows, length), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (rows, row_bytes(length, bits))
    assert torch.equal(unpack(packed, bits, length), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_bits_lie_as_documented(bits):
    """A reference of one line: the row as one large number."""
    q = 2 ** (bits - 1) - 1
    codes = [(37 * i) % (2 * q + 2) - q - 1 for i in range(21)]
    number = sum((code + q + 1) << (bits * i) for i, code in enumerate(codes))
    packed = pack(torch.tensor([codes], dtype=torch.int8), bits)
    assert bytes(packed[0].tolist()) == number.to_bytes(row_bytes(21, bits), "little")


def test_a_large_weight_goes_through_in_blocks():
    codes = torch.randint(-4, 4, (700, 999)).to(torch.int8)
    assert torch.equal(unpack(pack(codes, 3), 3, 999), codes)
