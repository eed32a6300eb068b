"""Working through the rows in blocks changes no result."""

import pytest
import torch

from espnet_rand.quantizers import AbsMax, Clip, Noise, PerGroup, Rand, StraightThrough, WeightQuantizer, rows

pytestmark = pytest.mark.usefixtures("device")


def value_and_gradient(quantizer, weight):
    weight = weight.clone().requires_grad_()
    value = quantizer(weight)
    value.square().sum().backward()
    return value.detach(), weight.grad


@pytest.mark.parametrize("scale", [AbsMax(), Clip(), Rand(mode=1), Rand(mode=2), Rand(mode=2, p=3)])
@pytest.mark.parametrize("block", [1, 40, 50])
def test_blocks_equal_the_whole(scale, block, monkeypatch):
    quantizer = WeightQuantizer(scale, StraightThrough(), PerGroup(6))
    weight = torch.randn(7, 20)
    whole = value_and_gradient(quantizer, weight)
    monkeypatch.setattr(rows, "_BLOCK", block)
    for a, b in zip(whole, value_and_gradient(quantizer, weight)):
        torch.testing.assert_close(a, b)


def test_blocks_have_noise_of_their_own(monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK", 40)
    weight = torch.ones(30, 20)
    noise = WeightQuantizer(AbsMax(), Noise())(weight) - weight
    assert len(noise.unique()) > 500
