import pytest
import torch
from torch import nn

from espnet_rand import QuantizerConfig, quantize

pytestmark = pytest.mark.usefixtures("device")


def test_self_attention(check_layer):
    x = torch.randn(3, 2, 8)
    report = check_layer(nn.MultiheadAttention(8, 2), x, x, x)
    assert [entry.name for entry in report.quantized] == ["in_proj_weight", "out_proj.weight"]


def test_attention_to_other_dimensions(check_layer):
    layer = nn.MultiheadAttention(8, 2, kdim=5, vdim=3, batch_first=True, add_bias_kv=True)
    report = check_layer(layer, torch.randn(2, 3, 8), torch.randn(2, 4, 5), torch.randn(2, 4, 3))
    names = {entry.name for entry in report.quantized}
    assert names == {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"}


@pytest.fixture
def fused(monkeypatch):
    """Names of torch's fused inference functions that ran."""
    ran = []
    for name in ("_native_multi_head_attention", "_transformer_encoder_layer_fwd"):
        original = getattr(torch, name)

        def spy(*args, _name=name, _original=original, **kwargs):
            ran.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(torch, name, spy)
    return ran


def test_attention_by_the_fast_path(check_layer, fused):
    x = torch.randn(2, 3, 8)
    check_layer(nn.MultiheadAttention(8, 2, batch_first=True), x, x, x, need_weights=False)
    assert "_native_multi_head_attention" in fused


def test_encoder_layer_by_the_fast_path(check_layer, fused):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    with torch.no_grad():
        for norm in (layer.norm1, layer.norm2):  # so that the outputs' squares have a gradient
            norm.weight.copy_(torch.rand(8) + 0.5)
    report = check_layer(layer, torch.randn(2, 3, 8))
    assert len(report.quantized) == 4 and "_transformer_encoder_layer_fwd" in fused


def test_transformer_with_padding():
    """A whole encoder, with and without the fast path."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    quantize(model, QuantizerConfig("lsc"))
    x, padding = torch.randn(2, 3, 8), torch.tensor([[False, False, False], [False, False, True]])
    slow = model(x, src_key_padding_mask=padding)
    with torch.no_grad():
        fast = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fast[~padding], slow[~padding].detach(), rtol=1e-4, atol=1e-5)
