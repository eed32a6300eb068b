import copy

import pytest
import torch
from torch import nn

from espnet_rand import QuantizationError, QuantizerConfig, disabled, quantize
from espnet_rand.calibration import calibrate
from espnet_rand.layers import quantized_weights
from espnet_rand.layers.layer import find_layer

pytestmark = pytest.mark.usefixtures("device")

MODE_3 = {"mode": 3, "init": "clip", "bits": 3, "estimator": "ste"}


class Net(nn.Module):
    """Something of everything; `twin` shares the weight of `a`, and `idle` sees no input."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.conv = nn.Conv1d(12, 20, 3, stride=2, padding=1)
        self.a = nn.Linear(20, 20)
        self.twin = nn.Linear(20, 20)
        self.twin.weight = self.a.weight
        self.idle = nn.Linear(3, 3)

    def forward(self, x):
        x = self.conv(self.embed(x).transpose(1, 2)).relu().transpose(1, 2)
        return self.twin(self.a(x).tanh() + 1)


def make(scale="rand", **options):
    torch.manual_seed(0)
    model = Net()
    quantize(model, QuantizerConfig(scale, **{**(MODE_3 if scale == "rand" else {"bits": 3}), **options}))
    return model.eval()


DATA = torch.randint(11, (6, 30), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [{}, {"granularity": "tensor"}, {"granularity": "column"}, {"granularity": "group", "group_size": 8}, {"p": 4}],
    ids=str,
)
def test_it_evaluates_nearer_to_the_float_model(options):
    model = make(**options)
    with disabled(model):
        wanted = model(DATA).detach()
    before, weights = model(DATA).detach(), quantized_weights(model)
    steps = {name: w.encode()[1].scales for name, w in weights.items()}
    floats = {name: p.detach().clone() for name, p in model.named_parameters()}
    done = {one.name: one for one in calibrate(model, lambda: model(DATA))}
    assert (model(DATA) - wanted).square().mean() < (before - wanted).square().mean() / 2
    assert {name for name, one in done.items() if one.reason} == {"embed.weight", "idle.weight"}
    assert all(one.reason or one.error_after < one.error_before for one in done.values())
    for name, w in weights.items():
        codes, (scales, _) = w.encode()
        own = w.spread(scales)
        moved = (dict(model.named_parameters())[name] - floats[name]).abs()
        torch.testing.assert_close(codes * own, model.get_submodule(name.rpartition(".")[0]).weight)
        if done[name].reason:
            assert not moved.any(), f"{name} was not calibrated, and stays"
            torch.testing.assert_close(scales, steps[name])
        else:
            assert 0 < (moved > 0).float().mean() < 0.9, f"{name}: those that must move do, and no others"


def test_the_steps_are_those_with_the_least_error_weighted_by_the_inputs_mean_squares():
    model, inputs = make(), []
    with disabled(model):
        for layer in (model.a, model.twin):
            layer.register_forward_pre_hook(lambda layer, x: inputs.append(x[0].detach().flatten(0, 1)))
        model(DATA)
    power = torch.cat(inputs).square().mean(0)
    w = model.a._parameters["weight"].detach().clone()
    calibrate(model, lambda: model(DATA))
    steps = torch.linspace(1, 0.25, 16)[:, None] * w.abs().amax(1) / 3  # (candidates, channels)
    rounded = (w / steps[:, :, None]).round().clamp(-4, 3) * steps[:, :, None]
    best = ((rounded - w).square() * power).sum(2).argmin(0)
    weight = quantized_weights(model)["a.weight"]
    _, (scales, _) = weight.encode()
    torch.testing.assert_close(scales, steps.gather(0, best[None])[0])
    assert (best != (rounded - w).square().sum(2).argmin(0)).any(), "else the inputs would not matter here"


def test_the_errors_are_those_of_the_outputs():
    model = make("lsc", init="clip")
    with disabled(model):
        x = model.embed(DATA).transpose(1, 2)
        clean = model.conv(x)
    bias, first = model.conv.bias[:, None], model.conv(x)
    done = {one.name: one for one in calibrate(model, lambda: model(DATA))}["conv.weight"]
    wanted = [(y - clean).square().sum() / (clean - bias).square().sum() for y in (first, model.conv(x))]
    assert [done.error_before, done.error_after] == pytest.approx([w.item() for w in wanted], rel=1e-3)


def test_its_checkpoint_gives_the_same_model_and_training_begins_with_its_codes():
    model = make()
    calibrate(model, lambda: model(DATA))
    again = make()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(DATA), model(DATA))
    wanted = model.a.weight.detach()
    seen = []
    again.train()
    again.a.register_forward_hook(lambda layer, *_: seen.append(layer.weight.detach()))
    again(DATA)
    torch.testing.assert_close(seen[0], wanted)


@pytest.mark.parametrize("scale, options", [("absmax", {}), ("clip", {}), ("rand", {"mode": 2})])
def test_steps_that_follow_the_weights_are_refused(scale, options):
    model = make(scale, **options)
    with pytest.raises(QuantizationError, match=r"embed.weight: its step sizes .* take learned ones"):
        calibrate(model, lambda: model(DATA))


def test_nothing_to_calibrate_and_inputs_that_are_not_finite_are_errors():
    model = make()
    with pytest.raises(QuantizationError, match="no weight of Net could be calibrated"):
        calibrate(model, lambda: None)
    with torch.no_grad():
        model.embed._parameters["weight"][0, 0] = torch.inf
    with pytest.raises(QuantizationError, match="conv.weight: its layer's inputs are not finite"):
        calibrate(model, lambda: model(DATA))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(5, 4), (2, 7, 5)),
        (nn.Conv1d(3, 4, 5, stride=2, padding=2, dilation=2), (2, 3, 30)),
        (nn.Conv1d(3, 4, 4, padding="same"), (2, 3, 30)),
        (nn.Conv1d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 30)),
        (nn.Conv2d(3, 4, (3, 5), stride=(1, 2), padding=(0, 3)), (2, 3, 9, 12)),
    ],
    ids=str,
)
def test_columns_times_rows_are_the_outputs(layer, shape):
    x = torch.randn(shape)
    kind = find_layer(layer)
    layer.to(x.device)
    products = kind.columns(layer, x) @ layer.weight.flatten(1).T + layer.bias
    y = layer(x)
    y = y if isinstance(layer, nn.Linear) else y.flatten(2).transpose(1, 2)
    torch.testing.assert_close(products, y.reshape(products.shape))


@pytest.mark.parametrize("layer", [nn.Conv1d(4, 4, 3, groups=2), nn.ConvTranspose1d(4, 4, 3), nn.LSTM(4, 4)], ids=str)
def test_other_layers_have_no_columns(layer):
    assert find_layer(layer).columns(layer, torch.randn(2, 4, 4)) is None


@pytest.mark.parametrize("rotation", ["none", "hadamard"])
def test_layers_that_see_the_errors_before_them_make_up_for_them(rotation):
    torch.manual_seed(0)
    x = torch.randn(400, 16)
    float_model = nn.Sequential(
        nn.Sequential(nn.Linear(16, 32)), nn.Tanh(), nn.Sequential(nn.Linear(32, 32)), nn.Sequential(nn.Linear(32, 8))
    )
    wanted, errors, firsts = float_model(x), [], []
    for propagate in (False, True):
        model = copy.deepcopy(float_model)
        quantize(model, QuantizerConfig("rand", **MODE_3, rotation=rotation))
        calibrate(model.eval(), lambda model=model: model(x), propagate=propagate)
        errors.append((model(x) - wanted).square().mean().item())
        firsts.append(model[0][0].weight)
    assert torch.equal(*firsts) and errors[1] < 0.7 * errors[0]


def test_shared_and_idle_layers_are_calibrated_in_order_as_well():
    model = make()
    with disabled(model):
        wanted = model(DATA).detach()
    before = (model(DATA) - wanted).square().mean()
    done = {one.name: one for one in calibrate(model, lambda: model(DATA), propagate=True)}
    assert {name for name, one in done.items() if one.reason} == {"embed.weight", "idle.weight"}
    assert (model(DATA) - wanted).square().mean() < before / 2
