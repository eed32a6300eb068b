import copy

import models
import pytest
import torch
from torch import nn

from espnet_rand import QuantizationError, QuantizerConfig, quantize
from espnet_rand.layers import quantized_weights
from espnet_rand.packing import load_into, pack_model
from espnet_rand.quantizers import Steps

pytestmark = pytest.mark.usefixtures("device")

LEARNED = {"mode": 3, "estimator": "ste"}


def twins():
    """Two layers that share a weight, and a transposed convolution, whose channels come second."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.ConvTranspose1d(6, 4, 3))
    model[1].weight = model[0].weight
    quantize(model, QuantizerConfig("rand", **LEARNED))
    return model.eval()


def test_a_shared_weight_is_there_once_with_all_its_names():
    found = quantized_weights(twins())
    assert {name: weight.full_names for name, weight in found.items()} == {
        "0.weight": ["0.weight", "1.weight"],
        "2.weight": ["2.weight"],
    }
    assert found["0.weight"].learned and found["0.weight"].bits == 4 and not found["0.weight"].fixed


@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
def test_placed_weights_and_step_sizes_are_what_all_their_layers_compute_with(name):
    model = twins()
    weight = quantized_weights(model)[name]
    codes, (scales, _) = weight.encode()
    steps, moved = 2 * scales, codes.flip(1).float()
    weight.place(moved * weight.spread(steps), Steps(steps))
    assert torch.equal(weight.encode()[0], moved.to(torch.int8))
    torch.testing.assert_close(weight.step_sizes(), steps)
    for full in weight.full_names:
        layer = model.get_submodule(full.rpartition(".")[0])
        torch.testing.assert_close(layer.weight, weight.parameter)
    again = twins()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(quantized_weights(again)[name].step_sizes(), steps)


def test_a_copied_layer_has_its_own_weight():
    model = twins()
    alone = copy.deepcopy(model[1])
    assert quantized_weights(alone)["weight"].layer is alone
    with torch.no_grad():
        model[0]._parameters["weight"].mul_(3)
        torch.testing.assert_close(3 * alone.weight, model[0].weight)
        torch.testing.assert_close(model[0].weight, model[1].weight)


def test_a_packed_model_has_no_weights_to_choose_or_pack_again():
    stock = models.Net()
    quantize(stock, QuantizerConfig("rand"))
    load_into(packed := models.Net(), pack_model(stock))
    assert not quantized_weights(packed)
    assert "weight: packed, 4 bits, 8 scales" in repr(packed.conv)
    with pytest.raises(QuantizationError, match="Net is from a packed file. Fix: pack its checkpoint again"):
        pack_model(packed)
