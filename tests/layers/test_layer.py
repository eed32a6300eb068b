import copy
import io
import pickle

import models
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import swa_utils

from espnet_rand import QuantizerConfig, quantize, quantizes
from espnet_rand.layers import SCALE_SUFFIX, QuantizedLayer
from espnet_rand.layers import layer as layer_module

pytestmark = pytest.mark.usefixtures("device")

TOKENS = torch.arange(10).view(2, 5)


def output(model, x=TOKENS):
    with torch.no_grad():
        return model.eval()(x)


def reloaded(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


# -- what stays as it was


def test_keys_parameters_and_optimizer_groups_stay(config):
    model = models.Net()
    keys, parameters = list(model.state_dict()), dict(model.named_parameters())
    optimizer = torch.optim.SGD([{"params": model.rnn.parameters()}, {"params": model.out.parameters()}], lr=1.0)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    quantize(model, config)
    after = dict(model.named_parameters())
    assert [key for key in model.state_dict() if not key.endswith(SCALE_SUFFIX)] == keys
    assert [name for name in after if not name.endswith(SCALE_SUFFIX)] == list(parameters)
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert all(any(p is q for q in model.parameters()) for p in grouped)
    before = output(model).clone()
    model.train()(TOKENS).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(output(model), before)


def test_learned_scales_are_the_only_new_parameters(learned):
    model, report = models.quantized(models.Net(), learned)
    new = {name for name, _ in model.named_parameters() if name.endswith(SCALE_SUFFIX)}
    names = models.scale_names(model)
    assert new == {names[entry.name] for entry in report.quantized}
    assert all(model.get_parameter(names[e.name]).shape == (e.scales,) for e in report.quantized)


def test_isinstance_and_repr_stay():
    model = nn.Linear(3, 4)
    quantize(model, {})
    assert isinstance(model, nn.Linear) and isinstance(model, QuantizedLayer)
    assert "in_features=3" in repr(model) and "Rand" in repr(model)


# -- reading the weight


def test_reading_the_weight_outside_a_forward():
    stock = models.Net()
    config = QuantizerConfig("absmax")
    model, report = models.quantized(stock, config)
    assert model.rnn.weight_ih_l0 is model.rnn._parameters["weight_ih_l0"]
    assert isinstance(model.embed.weight, nn.Parameter)
    model.eval()
    expected = models.rounded(stock, report, config)
    for entry in report.quantized:
        module, _, name = entry.name.rpartition(".")
        assert torch.equal(getattr(model.get_submodule(module), name), expected.get_parameter(entry.name))


def test_the_parameter_can_be_replaced():
    model, new = nn.Sequential(nn.Linear(3, 3)), torch.randn(3, 3)
    quantize(model, {})
    model[0].weight = nn.Parameter(new)
    assert torch.equal(model.state_dict()["0.weight"], new)
    assert torch.allclose(model.eval()[0].weight, new, atol=0.5) and model[0].weight.unique().numel() <= 3 * 16


# -- ties


def test_tied_layers_share_one_quantized_tensor_and_one_gradient(config, calls):
    model, _ = models.quantized(models.Net(), config)
    weights = []
    for tied in (model.embed, model.out):
        tied.register_forward_pre_hook(lambda module, args: weights.append(module.weight))
    model(TOKENS).square().sum().backward()
    assert weights[0] is weights[1] and len(calls) == 6
    assert model.embed._parameters["weight"] is model.out._parameters["weight"]
    assert model.out._parameters["weight"].grad.any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_ties_survive_copies(learned, copied, calls):
    model, _ = models.quantized(models.Net(), learned)
    other = copied(model)
    for name in ("weight", models.scale_names(model)["out.weight"].removeprefix("out.")):
        assert other.embed._parameters[name] is other.out._parameters[name]
        assert other.embed._parameters[name] is not model.embed._parameters[name]
    other(TOKENS)
    assert len(calls) == 6


# -- copies, files, dtypes


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: torch.load(reloaded(m), weights_only=False),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_compute_the_same_and_go_their_own_way(config, copied):
    model, _ = models.quantized(models.Net(), config)
    models.descend(model, TOKENS)
    before = output(model).clone()
    other = copied(model)
    assert torch.equal(output(other), before)
    assert torch.equal(other.train()(TOKENS), copied(model).train()(TOKENS)), "the noise goes on as it would have"
    models.descend(other.train(), TOKENS)
    assert torch.equal(output(model), before) and not torch.equal(output(other), before)
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_the_mark_against_weight_decay_survives_a_copy(learned):
    """ESPnet's optimizer groups read `_no_weight_decay`."""
    model, _ = models.quantized(nn.Sequential(nn.Linear(3, 3)), learned)
    (name,) = models.scale_names(model).values()
    assert model.get_parameter(name)._no_weight_decay
    assert getattr(copy.deepcopy(model).get_parameter(name), "_no_weight_decay", False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(config, dtype):
    stock = models.Net().to(dtype)
    report = models.quantized(stock, config)[1]
    model = models.quantized(models.Net(), config)[0].to(dtype)
    model.load_state_dict(stock.state_dict())
    assert all(p.dtype == dtype for p in model.parameters())
    torch.testing.assert_close(output(model), output(models.rounded(stock, report, config)))
    assert model.train()(TOKENS).dtype == dtype


def test_a_round_trip_of_dtypes_is_seen_in_evaluation():
    """Also where the allocator puts the new weights where the old ones were."""
    model = nn.Sequential(nn.Linear(64, 64))
    quantize(model, QuantizerConfig("absmax", bits=8))
    x = torch.randn(2, 64)
    for _ in range(10):
        nn.init.normal_(model.train()[0].weight)
        output(model, x)
        model.half().float()
        assert torch.equal(output(model, x), output(copy.deepcopy(model), x)), "stale"


# -- checkpoints


def load_plainly(model, state):
    model.load_state_dict(state)


def load_as_espnet_does(model, state):
    merged = model.state_dict()
    merged.update(state)
    model.load_state_dict(merged)


@pytest.fixture(params=[load_plainly, load_as_espnet_does], ids=["strict", "espnet"])
def load(request):
    return request.param


@pytest.mark.parametrize("evaluated", [False, True], ids=["at once", "after evaluation"])
def test_scales_follow_the_weights_of_a_float_checkpoint(learned, load, evaluated):
    stock = models.Net()
    model, report = models.quantized(models.Net(), learned)
    if evaluated:
        output(model)
    load(model, stock.state_dict())
    expected = models.rounded(stock, report, learned)
    assert torch.equal(output(model), output(expected))
    # and training starts from them
    direct, _ = models.quantized(stock, learned)
    for m in (model, direct):
        m.train()(TOKENS)
    for entry in report.quantized:
        found, wanted = (m.get_parameter(models.scale_names(m)[entry.name]) for m in (model, direct))
        assert torch.equal(found, wanted)


def test_scales_of_a_loaded_float_checkpoint_are_saved(learned, load):
    """Saved before any forward, as by a fine-tuning run that stops at once."""
    stock = models.Net()
    model, report = models.quantized(models.Net(), learned)
    load(model, stock.state_dict())
    other, _ = models.quantized(models.Net(), learned)
    other.load_state_dict(torch.load(reloaded(model.state_dict()), weights_only=True))
    assert torch.equal(output(other), output(models.rounded(stock, report, learned)))


def test_scales_of_a_loaded_float_checkpoint_are_set_at_once(learned, load):
    """DeepSpeed copies the parameters before the first forward, and trains its copies."""
    stock = models.Net()
    model, _ = models.quantized(models.Net(), learned)
    load(model, stock.state_dict())
    direct, _ = models.quantized(stock, learned)
    for (name, found), wanted in zip(model.named_parameters(), direct.parameters()):
        assert torch.equal(found, wanted), name


def test_trained_scales_survive_a_resume_with_partitioned_parameters(learned):
    """DeepSpeed's ZeRO 3 leaves parameters and their checkpoint empty between forwards."""
    model, _ = models.quantized(nn.Sequential(nn.Linear(6, 4)), learned)
    models.descend(model, torch.randn(3, 6))
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    resumed, _ = models.quantized(nn.Sequential(nn.Linear(6, 4)), learned)
    for parameter in resumed.parameters():
        parameter.data = torch.empty(0)
    resumed.load_state_dict({name: torch.empty(0) for name in trained})
    for name, parameter in resumed.named_parameters():
        parameter.data = trained[name].clone()
    resumed(torch.randn(3, 6))
    assert all(torch.equal(p, trained[name]) for name, p in resumed.named_parameters())


def test_trained_scales_survive_a_reload(learned):
    model, _ = models.quantized(models.Net(), learned)
    for _ in range(2):
        models.descend(model, TOKENS)
    other, _ = models.quantized(models.Net(), learned)
    other.load_state_dict(torch.load(reloaded(model.state_dict()), weights_only=True))
    for (name, a), b in zip(model.named_parameters(), other.parameters()):
        assert torch.equal(a, b), name
    assert torch.equal(output(other), output(model))
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(output(other), output(model))


def test_averaged_scales_are_kept(learned):
    """The average begins as a copy of a model whose scales still follow its weights."""
    model, _ = models.quantized(nn.Sequential(nn.Linear(6, 4)), learned)
    x = torch.randn(3, 6)
    average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    expected = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        models.descend(model, x, rate=1.0)
        average.update_parameters(model)
        expected = [(a + p.detach()) / 2 for a, p in zip(expected, model.parameters())]
    with torch.no_grad():
        average.eval()(x)
    names = [name for name, _ in model.named_parameters()]
    state = average.module.state_dict()
    assert any(name.endswith(SCALE_SUFFIX) for name in names)
    for name, value in zip(names, expected):
        assert torch.allclose(state[name], value, rtol=1e-5), name


def test_a_state_dict_that_is_changed_in_place_is_loaded(learned):
    model, _ = models.quantized(nn.Sequential(nn.Linear(6, 4)), learned)
    state = model.state_dict()
    (name,) = [name for name in state if name.endswith(SCALE_SUFFIX)]
    state[name].mul_(1.5)
    wanted = state[name].clone()
    model.load_state_dict(state)
    with torch.no_grad():
        model.eval()(torch.randn(3, 6))
    assert torch.equal(model.state_dict()[name], wanted)


def test_trained_scales_are_those_of_evaluation(learned):
    model, report = models.quantized(models.Net(), learned)
    for _ in range(3):
        models.descend(model, TOKENS)
    quantizer = learned.weight_quantizer([])
    model.eval()
    parameters = dict(model.named_parameters())
    for entry in report.quantized:
        module, _, name = entry.name.rpartition(".")
        weight, scale = parameters[entry.name], parameters[models.scale_names(model)[entry.name]]
        assert not torch.equal(scale, quantizer.initial(weight)), "must have been trained"
        decoded = quantizer.decode(*quantizer.encode(weight, scale), weight.dtype)
        assert torch.equal(getattr(model.get_submodule(module), name), decoded)


def test_other_missing_keys_are_still_errors(learned):
    model, _ = models.quantized(models.Net(), learned)
    state = models.Net().state_dict()
    del state["conv.weight"]
    with pytest.raises(RuntimeError, match="conv.weight"):
        model.load_state_dict(state)


def test_a_quantized_checkpoint_loads_into_a_float_model():
    model, _ = models.quantized(models.Net(), {"quantizer": "absmax"})
    stock = models.Net()
    stock.load_state_dict(model.state_dict())
    assert torch.equal(stock.conv.weight, model.conv._parameters["weight"])


@pytest.mark.parametrize("options", [{"quantizer": "lsc"}, {"mode": 2}, {"mode": 3}], ids=str)
def test_a_layer_that_starts_at_zero_can_learn(options):
    """Residual branches and adapters start so."""
    stock = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(stock.weight)
    model, _ = models.quantized(stock, QuantizerConfig(**options, estimator="ste"))
    x = torch.randn(64, 4)
    losses = []
    for _ in range(300):
        loss = (model(x) - x[:, :3]).square().mean()
        losses.append(loss.item())
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    assert losses[-1] < 0.2 * losses[0]


# -- other kinds of layers, other ways to run


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(layer_module, "_REGISTRY", dict(layer_module._REGISTRY))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return x @ self.mixing.T


def test_a_new_layer_type_is_one_decorated_class(registry, check_layer):
    @quantizes(Mixer)
    class QuantizedMixer(QuantizedLayer):
        @classmethod
        def weights(cls, module):
            return ("mixing",)

    check_layer(Mixer(), torch.randn(3, 6))


def test_data_parallel_is_refused():
    model = nn.Sequential(nn.Linear(3, 3))
    quantize(model, {})
    with pytest.raises(RuntimeError, match="DataParallel.*multiprocessing_distributed"):
        for module in model.modules():  # what torch.nn.parallel.replicate does, which needs GPUs
            module._replicate_for_data_parallel()


def test_fully_sharded_data_parallel_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3))
    quantize(model, {})
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="FullyShardedDataParallel cannot train a quantized model"):
            FullyShardedDataParallel(model, device_id=model[0].bias.device, use_orig_params=True)(torch.randn(2, 3))
    finally:
        torch.distributed.destroy_process_group()
