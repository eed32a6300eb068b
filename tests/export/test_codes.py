"""Scales in the blocks of a runtime are those of the packed weight."""

import pytest
import torch
from torch import nn

import espnet_rand
from espnet_rand.export.codes import block_scales, code_matrix, misfit, symmetric
from espnet_rand.packing import pack_model


def packed(shape=(5, 96), **options):
    model = nn.Linear(shape[1], shape[0], bias=False)
    espnet_rand.quantize(model, {"quantizer": "absmax", "quantizer_conf": options})
    return pack_model(model).weights["weight"]


@pytest.mark.parametrize("granularity", [{"granularity": "tensor"}, {}, {"granularity": "group", "group_size": 64}])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_blocks_decode_to_the_same_weight(granularity, block):
    weight = packed(bits=4, **granularity)
    assert misfit(weight, block) == ""
    scales = block_scales(weight, block).repeat_interleave(block, dim=1)[:, :96]
    assert torch.equal(code_matrix(weight) * scales, weight.values())


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("grid, more", [("signed", 0), ("half_step", 1), ("asymmetric", 1)])
def test_other_grids_become_the_symmetric_one_of_a_bit_more(grid, more, bits):
    torch.manual_seed(0)
    weight = packed((64, 96), bits=bits, granularity="group", group_size=32, grid=grid)
    plain = symmetric(weight)
    if bits + more > 8:
        assert plain is None and f"8 bits on the grid {grid}" in misfit(weight, 32)
        return
    assert torch.equal(plain.values(), weight.values()) and plain.bits == bits + more


def test_a_row_has_one_scale():
    weight = packed(bits=8)
    assert misfit(weight, None) == "" and block_scales(weight).shape == (5, 1)
    assert misfit(packed(granularity="group", group_size=128), None) == ""  # longer than the row


@pytest.mark.parametrize(
    "options, block, why",
    [
        ({"granularity": "column"}, 32, "column"),
        ({"granularity": "group", "group_size": 48}, 32, "48 weights"),
        ({"granularity": "group", "group_size": 32}, None, "32 weights"),
        ({"bits": 8}, 32, "8 bits"),
        ({"bits": 5, "grid": "half_step"}, 32, "6 bits"),
        ({"rotation": "hadamard"}, 32, "rotated"),
    ],
)
def test_what_does_not_fit_is_said(options, block, why):
    assert why in misfit(packed(**options), block, most_bits=5)
