import copy

import models
import pytest
import torch
from torch import nn

from espnet_rand import QuantizerConfig, disabled, quantize

pytestmark = pytest.mark.usefixtures("device")

X = torch.linspace(-1, 1, 18).view(3, 6)
NOISE = QuantizerConfig(mode=2, estimator="pqn")


@pytest.fixture
def linear():
    """A quantized linear layer in a model, without a bias."""
    model = nn.Sequential(nn.Linear(6, 6, bias=False))
    quantize(model, NOISE)
    return model


# -- noise


def test_noise_is_fresh_for_every_forward(linear):
    outputs = [linear(X) for _ in range(3)]
    assert not any(torch.equal(outputs[i], outputs[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_equal_layers_get_other_noise():
    model = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    model[1].load_state_dict(model[0].state_dict())
    quantize(model, NOISE)
    assert not torch.equal(model[0](X), model[1](X))


def run_of(seed):
    torch.manual_seed(0)
    stock = models.Blocks()
    torch.manual_seed(seed)
    model, _ = models.quantized(stock, NOISE)
    for _ in range(3):
        models.descend(model, X)
    return torch.cat([p.flatten() for p in model.parameters()])


def test_the_same_seed_gives_the_same_run():
    assert torch.equal(run_of(1), run_of(1)) and not torch.equal(run_of(1), run_of(2))


def test_noise_leaves_torchs_random_numbers_alone(config):
    stock = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    before = torch.get_rng_state()
    model, _ = models.quantized(stock, config)
    model(X).sum().backward()
    model.eval()(X)
    assert torch.equal(torch.get_rng_state(), before)


# -- gradient checkpointing


def gradients(config, reentrant, forwards=1, warm_up=0):
    torch.manual_seed(0)
    model = models.Blocks(reentrant)
    quantize(model, config)
    x = X.clone().requires_grad_()
    for _ in range(warm_up):
        models.descend(model, x)
    x.grad = None
    sum(model(x).square().sum() for _ in range(forwards)).backward()
    return [x.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("warm_up", [0, 1])
def test_checkpointing_changes_no_gradient(config, reentrant, warm_up):
    plain, checkpointed = (gradients(config, r, warm_up=warm_up) for r in (None, reentrant))
    for a, b in zip(plain, checkpointed):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_with_several_forwards_before_one_backward(reentrant):
    """Contrastive losses, R-Drop: each forward's recomputation needs the noise of that forward."""
    plain, checkpointed = (gradients(NOISE, r, forwards=2) for r in (None, reentrant))
    for a, b in zip(plain, checkpointed):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_knows_which_forward_was_disabled(reentrant):
    """Distillation from the float model: one loss of a float and a quantized forward."""

    def gradients_of_both(reentrant):
        torch.manual_seed(0)
        model = models.Blocks(reentrant)
        quantize(model, NOISE)
        x = X.clone().requires_grad_()
        with disabled(model):
            loss = model(x).square().sum()
        (loss + model(x).sum()).backward()
        return [x.grad, *(p.grad for p in model.parameters())]

    for a, b in zip(gradients_of_both(None), gradients_of_both(reentrant)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputations_do_not_count_as_forwards(reentrant):
    model, _ = models.quantized(models.Blocks(reentrant), QuantizerConfig(mode=2, estimator="pqn", start_step=2))
    x = X.clone().requires_grad_()
    weights = []
    model.first.register_forward_pre_hook(lambda module, args: weights.append(module.weight))
    for _ in range(3):
        weights.clear()
        model(x).sum().backward()
        floats = [isinstance(w, nn.Parameter) for w in weights]
        assert len(set(floats)) == 1
    assert not floats[0]


# -- backward passes


def test_gradients_accumulate_over_forwards(linear):
    apart = []
    twin = copy.deepcopy(linear)
    for _ in range(2):
        twin(X).square().sum().backward()
        apart.append(twin[0]._parameters["weight"].grad.clone())
        twin.zero_grad()
    for _ in range(2):
        linear(X).square().sum().backward()
    torch.testing.assert_close(linear[0]._parameters["weight"].grad, apart[0] + apart[1])


def test_backward_twice_over_one_forward(linear):
    loss = linear(X).square().sum()
    loss.backward(retain_graph=True)
    once = linear[0]._parameters["weight"].grad.clone()
    loss.backward()
    torch.testing.assert_close(linear[0]._parameters["weight"].grad, 2 * once)


def test_two_forwards_and_one_backward(linear):
    twin = copy.deepcopy(linear)
    (linear(X).sum() + linear(2 * X).sum()).backward()
    for x in (X, 2 * X):
        twin(x).sum().backward()
    torch.testing.assert_close(linear[0]._parameters["weight"].grad, twin[0]._parameters["weight"].grad)


def test_evaluation_mode_trains_through_a_layer_that_runs_twice(config):
    """Fine-tuning with dropout off."""
    model, _ = models.quantized(models.Blocks(), config)
    model.eval()(X).sum().backward()
    assert all(p.grad.isfinite().all() for n, p in model.named_parameters() if n.endswith("weight"))


def test_a_frozen_weight_is_quantized_too(linear):
    linear.requires_grad_(False)
    outputs = [linear(X) for _ in range(2)]
    assert not torch.equal(*outputs)


def test_no_grad_then_grad(linear):
    with torch.no_grad():
        linear(X)
    linear(X).sum().backward()
    assert linear[0]._parameters["weight"].grad.any()


# -- how often a weight is quantized


def test_once_a_training_forward(calls):
    model, _ = models.quantized(models.Steps(), NOISE)
    for n in (1, 2):
        model(torch.randn(5, 2, 4)).sum().backward()
        assert len(calls) == 2 * n


def test_once_in_evaluation_until_the_weight_changes(config, calls):
    model, report = models.quantized(models.Steps(), config)
    model.eval()
    weights = [p for n, p in model.named_parameters() if n in ("cell.weight_ih", "cell.weight_hh")]

    def evaluate():
        before = len(calls)
        with torch.no_grad():
            found = model(torch.ones(5, 2, 4))
        assert torch.equal(found, copy.deepcopy(model)(torch.ones(5, 2, 4)).detach()), "stale"
        del calls[before + 2 :]  # those of the copy
        return len(calls) - before

    assert evaluate() == 2
    del calls[:]
    with torch.no_grad():
        for _ in range(3):
            model(torch.ones(5, 2, 4))
    assert calls == []

    changes = [
        lambda: model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}),
        lambda: [w.detach().copy_(torch.randn_like(w)) for w in weights],
        lambda: [setattr(w, "data", torch.randn_like(w)) for w in weights],
    ]
    for change in changes:
        change()
        assert evaluate() == 2


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_step_is_seen_in_evaluation(linear, optimizer):
    stepper = optimizer(linear.parameters(), lr=0.5)
    linear.eval()
    linear(X).sum().backward()
    with torch.no_grad():
        before = linear(X)
        stepper.step()
        assert not torch.equal(linear(X), before)


def test_new_storage_at_an_old_address_is_seen_in_evaluation(linear):
    (weight,) = linear.eval().parameters()
    with torch.no_grad():
        for _ in range(10):  # the allocator hands freed memory out again
            linear(X)
            for _ in range(2):
                weight.data = torch.randn_like(weight)
            assert torch.equal(linear(X), copy.deepcopy(linear)(X)), "stale"


def test_inference_mode_and_no_grad_take_turns(linear):
    linear.eval()
    with torch.inference_mode():
        first = linear(X).clone()
    with torch.no_grad():
        second = linear(X)
    third = linear(X.clone().requires_grad_())
    third.sum().backward()
    assert torch.equal(first, second) and torch.equal(second, third.detach())


# -- start_step, and the model's clock


def is_float(model):
    with torch.no_grad():
        found = model.train()(X)
        return torch.equal(found, X @ model[0]._parameters["weight"].T)


@pytest.fixture
def late():
    model = nn.Sequential(nn.Linear(6, 6, bias=False))
    quantize(model, QuantizerConfig(mode=2, estimator="pqn", start_step=3))
    return model


def test_before_start_step_training_is_float_and_evaluation_is_not(late):
    with torch.no_grad():
        evaluated = late.eval()(X)
    assert [is_float(late) for _ in range(5)] == [True, True, True, False, False]
    with torch.no_grad():
        assert torch.equal(late.eval()(X), evaluated)


def test_evaluation_forwards_do_not_count(late):
    for _ in range(5):
        late.eval()(X)
    assert is_float(late)


def test_start_step_survives_a_resume_without_a_new_key(late, tmp_path):
    stock_keys = list(nn.Sequential(nn.Linear(6, 6, bias=False)).state_dict())
    for _ in range(2):
        is_float(late)
    torch.save({"model": late.state_dict()}, tmp_path / "checkpoint.pth")
    resumed = nn.Sequential(nn.Linear(6, 6, bias=False))
    quantize(resumed, QuantizerConfig(mode=2, estimator="pqn", start_step=3))
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["model"]
    assert list(state) == stock_keys
    resumed.load_state_dict(state)
    assert [is_float(resumed) for _ in range(2)] == [True, False]


def test_start_step_survives_inside_a_larger_model(late):
    for _ in range(2):
        is_float(late)
    other = copy.deepcopy(late)
    for _ in range(5):
        is_float(other)
    nn.ModuleDict({"model": other}).load_state_dict(nn.ModuleDict({"model": late}).state_dict())
    assert [is_float(other) for _ in range(2)] == [True, False]


def test_scales_saved_before_start_step_are_those_of_the_weights(learned):
    options = learned.to_dict()
    options["quantizer_conf"]["start_step"] = 100
    model, report = models.quantized(models.Blocks(), options)
    for _ in range(3):
        models.descend(model, X, rate=1.0)
    state = copy.deepcopy(model.state_dict())
    resumed, _ = models.quantized(models.Blocks(), options)
    resumed.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(resumed.eval()(X), model.eval()(X))


def test_scales_follow_the_weights_up_to_start_step_also_after_a_resume():
    config = QuantizerConfig("lsc", init="lsq+", estimator="pqn", start_step=3)
    model, resumed = (models.quantized(nn.Sequential(nn.Linear(6, 6)), config)[0] for _ in range(2))
    model(X)
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed(X)
    with torch.no_grad():
        weight = resumed[0].weight.mul_(8)
    for _ in range(2):
        resumed(X)
    scale = dict(resumed.named_parameters())["0.weight__lsc_channel_w4_quantizer_scale"]
    assert torch.equal(scale, config.weight_quantizer([]).initial(weight))


class Interrupted(nn.Module):
    error = None

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        x = self.linear(x)
        if self.error:
            raise self.error
        return x


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_forward_leaves_nothing_behind(error):
    model, _ = models.quantized(Interrupted(), NOISE)
    model.error = error
    with pytest.raises(error):
        model(X)
    model.error = None
    first = model(X)
    first.sum().backward()
    assert not torch.equal(model(X), first)
    assert isinstance(model.linear.weight, nn.Parameter)


def test_disabled_does_not_disturb_the_evaluation(linear, calls):
    linear.eval()
    with torch.no_grad():
        before = linear(X)
        with disabled(linear):
            assert not torch.equal(linear(X), before)
        assert torch.equal(linear(X), before) and len(calls) == 1


def test_distributed_training_crosses_start_step(learned, tmp_path):
    """DistributedDataParallel wants every parameter in every loss, those of the scales too."""
    options = learned.to_dict()
    options["quantizer_conf"]["start_step"] = 2
    model, _ = models.quantized(models.Blocks(), options)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in range(4):
            parallel(X).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
