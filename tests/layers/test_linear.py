import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("device")


class Scaled(nn.Linear):
    """A subclass with a forward of its own, and arguments of its own."""

    def __init__(self, size, factor):
        super().__init__(size, size)
        self.factor = factor

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.factor, self.bias).tanh()


@pytest.mark.parametrize("layer", [lambda: nn.Linear(7, 5), lambda: nn.Linear(7, 1, bias=False), lambda: Scaled(6, 3)])
def test_linear(check_layer, layer):
    stock = layer()
    report = check_layer(stock, torch.randn(4, stock.in_features))
    assert [entry.name for entry in report.quantized] == ["weight"]
