import pytest
import torch
from torch import nn

from espnet_rand import OptionError, QuantizerConfig, disabled, quantize, set_eval_bits
from espnet_rand.allocation import candidates, curvature, measured
from espnet_rand.layers import quantized_weights

X = torch.linspace(-1, 1, 60).view(10, 6)
GRANULARITIES = [{}, {"granularity": "tensor"}, {"granularity": "column"}, {"granularity": "group", "group_size": 4}]


class Net(nn.Module):
    """Two layers in parallel, one with its input channels first."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 4)
        self.b = nn.ConvTranspose1d(6, 4, 1)

    def forward(self, x):
        return self.a(x) + self.b(x.T[None])[0].T


def make(**options):
    torch.manual_seed(0)
    model = Net()
    quantize(model, QuantizerConfig("absmax", **options))
    return model.eval()


def test_candidates_are_the_choices_there_are():
    model = make(bits=[2, 8], overrides={"b": {"bits": 5}})
    assert candidates(model, [4, 2, 2]) == {"a.weight": [2, 4], "b.weight": [5]}
    with pytest.raises(OptionError, match="nothing to choose"):
        candidates(make(overrides={"a": {"quantizer": "lsc"}, "b": {"bits": 5}}), [2, 4])


def test_measured_is_the_loss_of_one_weight_changed():
    model = make()
    set_eval_bits(model, 3)
    before = {name: p.clone() for name, p in model.named_parameters()}
    target = torch.randn(10, 4)

    @torch.no_grad()
    def loss():
        return (model(X) - target).square().sum().item()

    found = measured(model, loss, {"a.weight": [2, 4, 8], "b.weight": [2, 8]})
    assert loss() == pytest.approx(loss_at(model, loss, {"*": 3})), "the model is as it was"
    reference = loss_at(model, loss, {"*": 8})
    assert found["b.weight"][8] == 0
    changes = {bits: loss_at(model, loss, {"a.weight": bits, "b.weight": 8}) - reference for bits in (4, 2)}
    assert found["a.weight"][4] == pytest.approx(max(0, changes[4]), abs=1e-5)
    assert found["a.weight"][2] == pytest.approx(max(0, changes[4], changes[2]), abs=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def loss_at(model, loss, plan):
    set_eval_bits(model, plan)
    return loss()


@pytest.mark.parametrize("options", GRANULARITIES, ids=str)
def test_curvature_is_exact_where_the_second_derivatives_are_diagonal(options):
    """There z'Hz is the trace for any signs: of sum h w^2 / 2, sum over groups of s^2 / 24 sum of h."""
    model = make(**options)
    curvatures = {"a.weight": torch.rand(4, 6), "b.weight": torch.rand(6, 4, 1)}
    before = {name: p.clone() for name, p in model.named_parameters()}

    def add_gradients():
        weights = {"a.weight": model.a.weight, "b.weight": model.b.weight}
        sum((weights[name].square() * h).sum() / 2 for name, h in curvatures.items()).backward()

    found = curvature(model, add_gradients, {"a.weight": [2, 3, 8], "b.weight": [3, 8]}, probes=2)
    for name, layer in (("a.weight", model.a), ("b.weight", model.b)):
        quantized = layer._quantized["weight"]
        traces = quantized.quantizer.granularity.split(quantized.channels_first(curvatures[name])).sum(1)
        with disabled(model):
            steps = {b: quantized_weights(model)[name].step_sizes(b) for b in (3, 8)}
        costs = {b: (steps[b].square() * traces).sum().item() / 24 for b in steps}
        assert found[name][3] == pytest.approx(costs[3] - costs[8], rel=1e-3)
        assert found[name][8] == 0
    assert found["a.weight"][2] > found["a.weight"][3]
    assert all(torch.equal(p, before[n]) and p.grad is None and p.requires_grad for n, p in model.named_parameters())


def test_curvature_is_the_trace_in_the_mean():
    """Of a loss whose second derivatives are known: sum of (W x)^2 has 2 sum x^2 on the diagonal."""
    model = make(granularity="tensor")

    def add_gradients():
        nn.functional.linear(X, model.a.weight).square().sum().backward()

    found = curvature(model, add_gradients, {"a.weight": [4, 8], "b.weight": [4, 8]}, probes=400)
    steps = {bits: quantized_weights(model)["a.weight"].step_sizes(bits).item() for bits in (4, 8)}
    trace = 4 * 2 * X.square().sum().item()
    assert found["a.weight"][4] == pytest.approx(trace * (steps[4] ** 2 - steps[8] ** 2) / 24, rel=0.1)
    assert found["b.weight"][4] == 0
