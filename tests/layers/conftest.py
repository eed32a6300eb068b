import copy

import models
import pytest
import torch

from espnet_rand import QuantizerConfig, WeightQuantizer, disabled
from espnet_rand.layers import SCALE_SUFFIX

CONFIGS = [
    QuantizerConfig("rand", mode=2, estimator="pqn"),
    QuantizerConfig("absmax", estimator="ste"),
    QuantizerConfig("lsc", estimator="ste", init="lsq+", granularity="group", group_size=5, bits=3),
    QuantizerConfig("rand", mode=3, estimator="pqn", granularity="tensor", init="clip"),
    QuantizerConfig("rand", mode=3, estimator="pqn", init="norm", granularity="column"),
    QuantizerConfig("clip", estimator="pqn", granularity="group", group_size=4, noise="normal"),
]
NAMES = [
    "rand-pqn-channel",
    "absmax-ste-channel",
    "lsc-ste-group",
    "rand3-pqn-tensor",
    "rand3-pqn-column",
    "clip-pqn-group",
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=CONFIGS, ids=NAMES)
def config(request):
    return request.param


@pytest.fixture(params=CONFIGS[2:5], ids=NAMES[2:5])
def learned(request):
    """Configurations whose scales have parameters."""
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """How often a weight was quantized: the length of this list."""
    made, original = [], WeightQuantizer.__call__

    def call(self, *args, **kwargs):
        made.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(WeightQuantizer, "__call__", call)
    return made


def _close(a, b):
    return all(torch.allclose(x, y, rtol=1e-5, atol=1e-6) for x, y in zip(models.tensors(a), models.tensors(b)))


@pytest.fixture
def check_layer(config):
    """Check that a layer, quantized, is the stock layer with other weights: check(layer, *inputs)."""

    def check(stock, *inputs, channels_first=lambda w: w, own_layout=lambda w: w, depthwise=False, **kwargs):
        options = config.to_dict()
        options["quantizer_conf"]["depthwise"] = depthwise
        model, report = models.quantized(stock, options)
        rounded = models.rounded(stock, report, config, channels_first, own_layout)
        added = set(model.state_dict()) - set(stock.state_dict())
        assert [k for k in model.state_dict() if k not in added] == list(stock.state_dict())
        assert all(key.endswith(SCALE_SUFFIX) for key in added)

        def run(m):
            return copy.deepcopy(m(*inputs, **kwargs))

        for m in (model, rounded, stock):
            m.eval()
        with torch.no_grad():
            wanted = run(rounded)
            assert _close(run(model), wanted) and not _close(run(stock), wanted)
            with disabled(model):
                assert _close(run(model), run(stock))
        assert _close([t.detach() for t in models.tensors(model(*inputs, **kwargs))], wanted)

        for m in (model, rounded, stock):
            m.train()
        with torch.no_grad():
            straight = config.to_dict()["quantizer_conf"]["estimator"] == "ste"
            assert _close(run(model), run(rounded)) == straight
            assert not _close(run(model), run(stock))
            with disabled(model):
                assert _close(run(model), run(stock))
        sum(t.square().sum() for t in models.tensors(model(*inputs, **kwargs))).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        return report

    return check
