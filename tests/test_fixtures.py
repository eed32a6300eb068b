"""Files of earlier versions load to the same numbers."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from espnet_rand import quantize
from espnet_rand.bin import inspect_weights
from espnet_rand.packing import load_into, pack_model, read_packed
from tests.fixtures.frozen import CONFIGS, Frozen

V1 = Path(__file__).parent / "fixtures/v1"
TOKENS = torch.arange(2 * 7).view(2, 7) % 11


def digest(state):
    """SHA-256 of the names and bytes of a state_dict."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        total.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def new(name):
    model = Frozen().half() if name.startswith("half") else Frozen()
    quantize(model, CONFIGS[name])
    return model


@pytest.mark.parametrize("path", sorted(V1.glob("**/*.safetensors")), ids=lambda path: path.stem)
def test_packed_files_decode_to_the_same_bits(path):
    assert (
        digest(read_packed(path).state_dict())
        == json.loads((V1 / "sha256.json").read_text())[str(path.relative_to(V1))]
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpoints_evaluate_with_the_same_codes(name):
    model = new(name)
    model.load_state_dict(torch.load(V1 / f"{name}.pth", weights_only=True))
    found, wanted = pack_model(model), read_packed(V1 / f"{name}.safetensors")
    assert found.weights.keys() == wanted.weights.keys() and found.aliases == wanted.aliases
    for full, weight in wanted.weights.items():
        assert torch.equal(found.weights[full].codes(), weight.codes()), full
        # exp() of other processors differs in the last bit
        assert torch.allclose(found.weights[full].wide_scales, weight.wide_scales, rtol=1e-6, atol=0), full
    assert all(torch.equal(found.floats[full], tensor) for full, tensor in wanted.floats.items())


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("half")])
def test_packed_files_compute_as_their_checkpoints(name):
    model, packed = new(name), Frozen()
    model.load_state_dict(torch.load(V1 / f"{name}.pth", weights_only=True))
    load_into(packed, read_packed(V1 / f"{name}.safetensors"), "dequantize")
    with torch.no_grad():
        assert torch.allclose(packed(TOKENS), model.eval()(TOKENS), rtol=1e-4, atol=1e-5)


def test_files_of_version_1_are_to_be_packed_again(capsys, caplog):
    inspect_weights.main([str(V1 / "lsc_channel_3.safetensors")])
    for text in (capsys.readouterr().out, caplog.text):
        assert "its format is version 1" in text and "pack the checkpoint again" in text
