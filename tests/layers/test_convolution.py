import pytest
import torch
from torch import nn

from espnet_rand import quantize

pytestmark = pytest.mark.usefixtures("device")


def out_first(groups):
    """Weights of a transposed convolution by output channel, one at a time; and back."""

    def channels_first(weight):
        inputs, outputs = weight.shape[0] // groups, weight.shape[1]
        moved = weight.new_empty(groups * outputs, inputs, *weight.shape[2:])
        for g, i, o in ((g, i, o) for g in range(groups) for i in range(inputs) for o in range(outputs)):
            moved[g * outputs + o, i] = weight[g * inputs + i, o]
        return moved

    def own_layout(moved):
        outputs, inputs = moved.shape[0] // groups, moved.shape[1]
        weight = moved.new_empty(groups * inputs, outputs, *moved.shape[2:])
        for g, i, o in ((g, i, o) for g in range(groups) for i in range(inputs) for o in range(outputs)):
            weight[g * inputs + i, o] = moved[g * outputs + o, i]
        return weight

    return {"channels_first": channels_first, "own_layout": own_layout}


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv1d(4, 6, 3),
        lambda: nn.Conv1d(4, 6, 3, groups=2, padding="same", padding_mode="circular", bias=False),
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, dilation=2),
        lambda: nn.Conv2d(4, 6, 1, groups=2),
        lambda: nn.Conv2d(1, 6, 3, stride=2),
    ],
)
def test_convolution(check_layer, layer):
    stock = layer()
    check_layer(stock, torch.randn(2, stock.in_channels, *[9] * (stock.weight.dim() - 2)))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layer", [nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_transposed_convolution(check_layer, layer, groups):
    stock = layer(4, 6, 3, stride=2, groups=groups)
    size = [5] * (stock.weight.dim() - 2)
    report = check_layer(stock, torch.randn(2, 4, *size), **out_first(groups))
    if "PerChannel" in report.quantized[0].quantizer:
        assert report.quantized[0].scales == 6


@pytest.mark.parametrize("layer", [nn.Conv1d(4, 8, 3, groups=4), nn.Conv2d(4, 4, 3, groups=4)])
def test_depthwise_convolution_is_quantized_only_on_request(check_layer, layer):
    report = quantize(nn.ModuleList([nn.Linear(2, 2), layer]), {})
    (left,) = [entry for entry in report.left_in_float if "depthwise" in entry.reason]
    assert (left.name, left.parameters) == ("1", layer.weight.numel() + layer.bias.numel())
    x = torch.randn(2, 4, *[9] * (layer.weight.dim() - 2))
    check_layer(layer.to(x.device), x, depthwise=True)


def test_transposed_depthwise_convolution_is_left_in_float():
    report = quantize(nn.ModuleList([nn.Linear(2, 2), nn.ConvTranspose1d(4, 4, 3, groups=4)]), {})
    assert any("depthwise" in entry.reason for entry in report.left_in_float)


@pytest.mark.parametrize("layer", [nn.Conv1d(1, 40, 400, stride=160), nn.ConvTranspose1d(40, 1, 400, stride=160)])
def test_filter_banks_are_left_in_float(layer):
    report = quantize(nn.ModuleList([nn.Linear(2, 2), layer]), {})
    (left,) = [entry for entry in report.left_in_float if "filter bank" in entry.reason]
    assert (left.name, left.parameters) == ("1", 40 * 400 + layer.bias.numel())
