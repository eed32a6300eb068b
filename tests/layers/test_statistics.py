import pytest
import torch
from torch import nn

from espnet_rand import QuantizerConfig, quantize, set_eval_bits
from espnet_rand.layers import quantized_weights, rounding_statistics


def statistics(layer, quantizer, **conf):
    quantize(layer, QuantizerConfig(quantizer, **conf))
    (weight,) = quantized_weights(layer.eval()).values()
    return weight, rounding_statistics(weight)


def test_by_hand():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[0.0, 1.0, 2.4, -9.0]])
    weight, before = statistics(layer, "lsc", bits=3, granularity="tensor")
    with torch.no_grad():
        weight.scale.fill_(1.0)  # codes 0, 1, 2, -4
    after = rounding_statistics(weight)
    assert after == pytest.approx({"rounding_error": (0.4**2 + 5**2) / (1 + 2.4**2 + 81), "scale": 1, "clipped": 0.25})
    assert before["clipped"] == 0 and before["rounding_error"] < after["rounding_error"]


@pytest.mark.parametrize(
    "conf",
    [
        {"quantizer": "rand", "mode": 2, "k": 20},
        {"quantizer": "rand", "granularity": "group", "group_size": 8, "grid": "asymmetric"},
        {"quantizer": "rand", "granularity": "column", "grid": "signed"},
        {"quantizer": "clip", "grid": "half_step", "bits": 2},
        {"quantizer": "clip", "rotation": "hadamard", "bits": 2},
    ],
    ids=str,
)
def test_it_is_what_evaluation_rounds_to(conf):
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(24, 16, 3)
    layer.weight.data[:, 3] *= 9
    weight, found = statistics(layer, **conf)
    w, rounded = weight.rotated(layer._parameters["weight"].detach()), weight.rotated(layer.weight.detach())
    assert found["rounding_error"] == pytest.approx(((w - rounded).square().sum() / w.square().sum()).item(), rel=1e-4)
    beyond = (w - rounded).abs() > 0.5001 * weight.spread(weight.step_sizes())
    assert found["clipped"] == pytest.approx(beyond.float().mean().item()) and found["clipped"] > 0
    assert found["scale"] == pytest.approx(weight.step_sizes().mean().item())


def test_the_learned_c_and_the_bits_of_evaluation():
    layer = nn.Linear(16, 4, bias=False)
    weight, found = statistics(layer, "rand", bits=[2, 8], mode=3, init="norm", k=2)
    assert found["c"] == pytest.approx(2 ** (-1 / 8))
    with torch.no_grad():
        weight.scale.fill_(0.0)
    assert rounding_statistics(weight)["c"] == 1
    set_eval_bits(layer, 2)
    assert rounding_statistics(weight)["rounding_error"] > 20 * found["rounding_error"]
    assert statistics(nn.Linear(4, 4), "rand", mode=2)[1].keys() == {"rounding_error", "scale", "clipped"}


def test_a_weight_of_zeros_has_no_error():
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    assert statistics(layer, "absmax")[1]["rounding_error"] == 0


@pytest.mark.parametrize("size", [1e-18, 1.0, 1e20])
def test_the_error_does_not_depend_on_the_size_of_the_weights(size):
    torch.manual_seed(0)
    layer = nn.Linear(64, 8, bias=False)
    layer.weight.data.mul_(size)
    _, found = statistics(layer, "absmax", bits=4)
    assert 0.002 < found["rounding_error"] < 0.05
