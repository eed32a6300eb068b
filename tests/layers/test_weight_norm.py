"""Weights that weight norm computes are quantized where `weight_norm: true` asks for it, and saved as g and v."""

import pytest
import torch
from torch import nn

from espnet_rand.layers import quantize, quantized_weights
from espnet_rand.packing import load_into, pack_model, read_packed, write_packed

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
KINDS = [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm]
X = torch.randn(2, 4, 9)


def net(normed):
    """Convolutions of all kinds; the last is there twice."""
    up = normed(nn.ConvTranspose1d(8, 4, 3, padding=1))
    last = normed(nn.Conv1d(4, 4, 3, padding=1))
    depthwise = normed(nn.Conv1d(4, 4, 3, padding=1, groups=4))
    model = nn.Sequential(normed(nn.Conv1d(4, 8, 3, padding=1)), nn.Tanh(), up, depthwise, last, last)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # so that v has other norms than g
    return model


@pytest.mark.parametrize("normed", KINDS)
@pytest.mark.parametrize("mode", [1, 3])
def test_what_is_rounded_is_the_computed_weight(normed, mode, tmp_path):
    stock, model, again = (net(normed).eval() for _ in range(3))
    model.load_state_dict(stock.state_dict())
    stock(X)  # torch's older kind computes its weight here
    plain = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1))
    plain[0].weight, plain[0].bias = nn.Parameter(stock[0].weight.detach().clone()), stock[0].bias
    config = {"quantizer": "rand", "quantizer_conf": {"bits": 4, "mode": mode, "init": "norm"}}
    quantize(plain, config)
    config["quantizer_conf"]["weight_norm"] = True
    report = quantize(model, config)
    assert [entry.name for entry in report.quantized] == ["0.weight", "2.weight", "4.weight"]
    assert torch.equal(model.eval()[0](X), plain.eval()[0](X))

    state = {name: value for name, value in model.state_dict().items() if "scale" not in name}
    assert state.keys() == stock.state_dict().keys()
    again.load_state_dict(state)
    torch.testing.assert_close(again(X), stock(X), rtol=1e-4, atol=1e-5)

    model.train()(X).sum().backward()
    with torch.no_grad():
        quantized_weights(model)["0.weight"].parameter.sub_(0.1)
    loaded = net(normed)
    quantize(loaded, config)
    loaded.load_state_dict(model.state_dict())
    torch.testing.assert_close(loaded.eval()(X), model.eval()(X))

    write_packed(tmp_path / "model.safetensors", pack_model(model))
    packed = read_packed(tmp_path / "model.safetensors")
    float_model, decoding = net(normed).eval(), net(normed)
    float_model.load_state_dict(packed.state_dict())
    load_into(decoding, packed, backend="dequantize")
    torch.testing.assert_close(decoding(X), model(X))
    torch.testing.assert_close(float_model(X), model(X))
    assert packed.state_dict().keys() == stock.state_dict().keys()


def test_what_is_left_in_float_keeps_its_norm():
    model = net(nn.utils.weight_norm)
    quantize(model, {"quantizer": "absmax", "quantizer_conf": {"weight_norm": True, "exclude": ["2"]}})
    assert {"2.weight_g", "3.weight_g"} <= dict(model.named_parameters()).keys()
