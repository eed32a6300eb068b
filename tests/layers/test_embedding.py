import pytest
import torch
from torch import nn

from espnet_rand import quantize

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.parametrize("layer", [lambda: nn.Embedding(9, 6), lambda: nn.Embedding(9, 6, padding_idx=0)])
def test_embedding(check_layer, layer):
    check_layer(layer(), torch.arange(9).view(3, 3))


def test_the_padding_entry_stays_zero():
    model = nn.Embedding(9, 6, padding_idx=2)
    quantize(model, {})
    for training in (True, False):
        assert model.train(training)(torch.tensor([2])).abs().max() < 1e-30


@pytest.mark.parametrize(
    "name, layer, reason",
    [
        ("embed", nn.Embedding(9, 6, max_norm=1.0), "max_norm"),
        ("embed", nn.Embedding(9, 6, sparse=True), "sparse"),
        ("position_table", nn.Embedding(9, 6), "positional table"),
        ("pos_emb", nn.Embedding(9, 6), "positional table"),
    ],
)
def test_left_in_float(name, layer, reason):
    report = quantize(nn.ModuleDict({name: layer, "linear": nn.Linear(6, 6)}), {})
    (left,) = [entry for entry in report.left_in_float if entry.name == name]
    assert reason in left.reason and left.parameters == 54
