"""What belongs to one computation: threads, recomputations, interruptions."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import models
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from espnet_rand import QuantizationError, QuantizerConfig, disabled, evaluating_at, quantize, set_eval_bits
from espnet_rand.layers import computation

pytestmark = pytest.mark.usefixtures("device")

X = torch.linspace(-1, 1, 18).view(3, 6)
BITS = QuantizerConfig("rand", mode=2, estimator="pqn", bits=[2, 3, 4, 8])
TRACKING = QuantizerConfig("rand", mode=3, init="clip", estimator="pqn", bits=[2, 3, 4, 8])


def stack(config=BITS):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    quantize(model, config)
    return model.eval()


def elsewhere(function, *args):
    """What it gives in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


# -- threads


@pytest.mark.parametrize("config", [BITS, TRACKING], ids=["computed", "tracking"])
def test_threads_evaluate_each_at_its_own_bits(config):
    """As requests to a server: two precisions and the float model of one model at once, many times."""
    model = stack(config)

    def block(bits):
        return disabled(model) if bits == "float" else evaluating_at(model, bits) if bits else nullcontext()

    @torch.no_grad()
    def forward(bits):
        with block(bits):
            return model(X).clone()

    kinds = [2, 4, None, "float"]
    alone = {bits: forward(bits) for bits in kinds}
    assert len({tuple(y.flatten().tolist()) for y in alone.values()}) == len(kinds)
    start = threading.Barrier(len(kinds))

    def many(bits):
        start.wait()
        return all(torch.equal(forward(bits), alone[bits]) for _ in range(300))

    with ThreadPoolExecutor(len(kinds)) as pool:
        assert all(pool.map(many, kinds))
    assert torch.equal(forward(None), alone[None]), "and nothing stays"


def test_blocks_that_overlap_leave_the_model_as_it_was():
    """One thread enters, another enters, the first leaves, the other leaves."""
    model = stack()
    with torch.no_grad():
        before = model(X).clone()
        entered, left = threading.Event(), threading.Event()

        def other():
            with evaluating_at(model, 2), disabled(model):
                entered.set()
                left.wait()

        with ThreadPoolExecutor(1) as pool:
            with evaluating_at(model, 3):
                done = pool.submit(other)
                entered.wait()
            left.set()
            done.result()
        assert torch.equal(model(X), before)


def test_bits_that_are_set_are_those_of_all_threads():
    model = stack()
    with torch.no_grad():
        set_eval_bits(model, 3)
        three = model(X).clone()
        assert torch.equal(elsewhere(lambda: torch.no_grad()(model)(X)), three)
        with evaluating_at(model, None):
            assert not torch.equal(model(X), three), "the default goes before what was set"
        assert torch.equal(model(X), three)


def test_blocks_within_blocks():
    model = stack()
    with torch.no_grad():
        float_model, two, default = None, None, model(X).clone()
        with evaluating_at(model, 2):
            two = model(X).clone()
            with disabled(model):
                float_model = model(X).clone()
                with evaluating_at(model, 3):
                    assert torch.equal(model(X), float_model)
            assert torch.equal(model(X), two)
        assert torch.equal(model(X), default)


def test_blocks_made_before_and_left_in_any_order():
    model = stack()
    with torch.no_grad():
        default = model(X)
        with disabled(model):
            float_model = model(X).clone()
        first, second = disabled(model), evaluating_at(model, 2)
        with first, second:
            assert torch.equal(model(X), float_model)
        first, second = disabled(model), evaluating_at(model, 2)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert torch.equal(model(X), default)


def test_a_block_that_another_thread_ends_does_not_stay():
    """A generator that a server's threads advance."""
    model = stack()

    def stream():
        with evaluating_at(model, 2):
            yield
            yield

    with torch.no_grad():
        default = model(X)
        with ThreadPoolExecutor(1) as pool:
            generator = stream()
            pool.submit(next, generator).result()
            elsewhere(generator.close)
            assert torch.equal(pool.submit(torch.no_grad()(model), X).result(), default)


# -- recomputation


def gradients(model, x, loss):
    x.grad = None
    model.zero_grad()
    loss()
    return [x.grad.clone(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def blocks(reentrant, config=BITS):
    torch.manual_seed(0)
    model = models.Blocks(reentrant)
    quantize(model, config)
    return model


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_what_a_forward_was_told_goes_into_its_recomputation_in_any_thread(reentrant, training):
    """As on CUDA, whose autograd has threads of its own: bits, disabled and noise are those of the forward."""

    def run(reentrant, backward):
        model = blocks(reentrant).train(training)
        model.second[1].p = 0.0
        x = X.clone().requires_grad_()
        with evaluating_at(model, 2):
            first = model(x).square().sum()
        with disabled(model):
            second = model(x).square().sum()
        third = model(x).square().sum()
        with evaluating_at(model, 3):
            return gradients(model, x, lambda: backward((first + 2 * second + 3 * third).backward))

    plain = run(None, lambda call: call())
    for backward in (lambda call: call(), elsewhere):
        for a, b in zip(plain, run(reentrant, backward)):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_of_the_whole_model_recomputes_its_own_forward(reentrant):
    """Its node is made before the model's forward, or after it: not within."""

    def run(wrapped):
        model = blocks(None)
        x = X.clone().requires_grad_()

        def forward():
            return checkpoint(model, x, use_reentrant=reentrant) if wrapped else model(x)

        model(x).sum().backward()
        losses = [forward().square().sum() * (n + 1) for n in range(3)]
        return gradients(model, x, lambda: sum(losses).backward())

    for a, b in zip(run(False), run(True)):
        torch.testing.assert_close(a, b)


class Segments(nn.Module):
    """Checkpoints of some layers, nested, called by themselves; `how` as in models.Blocks."""

    def __init__(self, how, config=BITS):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.how = how
        quantize(self, config)

    def run(self, function, x, how=...):
        how = self.how if how is ... else how
        return function(x) if self.how is None else checkpoint(function, x, use_reentrant=how)

    def segment(self, x):
        return self.b(torch.tanh(self.a(x)))

    def encode(self, x):
        return self.run(self.segment, x)

    def nested(self, x, inner=...):
        return self.c(self.run(lambda y: self.run(self.segment, torch.tanh(y), inner), x))

    def on_and_off(self, x):
        y = self.encode(x)
        with disabled(self):
            z = self.encode(x)
        with evaluating_at(self, 2):
            return y - 2 * z + 3 * self.encode(x)

    def blocks_within(self, x):
        def segment(x):
            with evaluating_at(self, 2):
                x = torch.tanh(self.a(x))
            with evaluating_at(self, 3):
                return self.b(x * torch.tanh(self.a(x)))

        return self.run(segment, x)

    def forward(self, x, part="encode", **kwargs):
        return getattr(self, part)(x, **kwargs)


def losses(how, backward, forward, training, between=lambda model: None):
    model = Segments(how).train(training)
    x = X.clone().requires_grad_()
    total = forward(model, x)
    between(model)
    return gradients(model, x, lambda: backward(total.square().sum().backward))


PARTS = {
    "layers called directly": lambda model, x: model.encode(x),
    "nested": lambda model, x: sum((n + 1) * model(x, "nested") for n in range(3)),
    "nested, of both kinds": lambda model, x: sum((n + 1) * model(x, "nested", inner=not model.how) for n in range(2)),
    "float after quantized": lambda model, x: model(x, "on_and_off"),
    "blocks within": lambda model, x: model(x, "blocks_within"),
}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_checkpoints_of_every_shape_are_recomputed_as_they_were(reentrant, training, part):
    plain = losses(None, lambda call: call(), part, training)
    for backward in (lambda call: call(), elsewhere):
        for a, b in zip(plain, losses(reentrant, backward, part, training)):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_bits_that_are_set_after_the_forward_do_not_reach_its_recomputation(reentrant):
    def part(model, x):
        set_eval_bits(model, 2)
        return model(x)

    def eight(model):
        set_eval_bits(model, 8)

    plain, found = (losses(how, lambda call: call(), part, False, eight) for how in (None, reentrant))
    for a, b in zip(plain, found):
        torch.testing.assert_close(a, b)


def test_an_evaluation_within_backward_is_as_its_block_says():
    """As in a hook that looks at the float model."""
    model = stack().train()
    with torch.no_grad(), disabled(model):
        wanted = model.eval()(X)
    seen = []

    def look(grad):
        with torch.no_grad(), disabled(model):
            seen.append(model(X))

    y = model(X.clone().requires_grad_())
    y.register_hook(look)
    y.sum().backward()
    assert torch.equal(seen[0], wanted)


@pytest.mark.parametrize("reentrant", [False, True])
def test_several_training_forwards_in_one_checkpoint_are_refused(reentrant):
    """In evaluation they are the same."""
    model = blocks(None)
    x = X.clone().requires_grad_()

    def loss():
        return checkpoint(lambda x: model(model(x)), x, use_reentrant=reentrant).square().sum()

    with pytest.raises(QuantizationError, match="several forwards of one model"):
        loss().backward()
    model.eval()
    plain = gradients(model, x, lambda: model(model(x)).square().sum().backward())
    for a, b in zip(plain, gradients(model, x, lambda: loss().backward())):
        torch.testing.assert_close(a, b)


def test_forwards_of_several_threads_are_told_apart_or_refused():
    model = blocks(False)
    losses = [elsewhere(lambda: model(X.clone().requires_grad_()).square().sum()) for _ in range(2)]
    try:
        sum(losses).backward()
    except QuantizationError as e:
        assert "several threads" in str(e)
    else:
        pytest.fail("numbers of autograd's nodes are of a thread: here both begin at the same")


def test_a_recomputation_after_too_many_forwards_is_refused(monkeypatch):
    monkeypatch.setattr(computation, "_REMEMBERED", 8)
    model = blocks(False)
    loss = model(X.clone().requires_grad_()).sum()
    for _ in range(9):
        model(X)
    with pytest.raises(QuantizationError, match="8 or more"):
        loss.backward()


# -- interruptions


class Steps(nn.Module):
    """Layers, and code between them, that may be interrupted."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.at = None

    def forward(self, x):
        self.stop("before")
        x = self.first(x)
        self.stop("between")
        return self.second(x @ self.first.weight)

    def stop(self, at):
        if self.at == at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", ["before", "between", "in"])
@pytest.mark.parametrize("training", [True, False])
def test_after_ctrl_c_the_weight_reads_as_before(at, training):
    """torch calls no hook after it."""
    torch.manual_seed(0)
    model, twin = (models.quantized(Steps(), BITS)[0].train(training) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    model.at = at
    hook = model.second.register_forward_pre_hook(lambda *_: model.stop("in"))
    with pytest.raises(KeyboardInterrupt):
        model(X)
    hook.remove()
    assert not model._quantization.clock.running
    assert isinstance(model.first.weight, nn.Parameter) == training
    model.at = None
    if training:
        assert model._quantization.clock.forwards == 1
        twin._quantization.clock.forwards = 1
    torch.manual_seed(1)
    assert torch.equal(model(X), twin(X)), "and the next forward is as any"


def test_a_model_that_calls_itself_goes_on_with_its_own_forward():
    class Twice(Steps):
        def forward(self, x):
            if x.shape[0] > 1:
                with torch.no_grad():
                    self(x[:1])
            return self.second(x @ self.first.weight)

    model, _ = models.quantized(Twice(), QuantizerConfig("rand", mode=2, estimator="pqn"))
    assert not torch.equal(model(X), X @ model.first._parameters["weight"] @ model.second._parameters["weight"].T)
    model.zero_grad()
    seen = []
    model.second.register_forward_pre_hook(lambda *_: seen.append(model.first.weight))
    model(X)
    assert not any(isinstance(weight, nn.Parameter) for weight in seen) and not model._quantization.clock.running


# -- export


@pytest.mark.parametrize(
    "options",
    [
        {"mode": 2},
        {"mode": 3, "init": "clip"},
        {"mode": 3, "granularity": "group", "group_size": 4},
        {"quantizer": "lsc"},
    ],
    ids=str,
)
@pytest.mark.parametrize("trained", [False, True])
def test_torch_export_has_the_rounded_weights(options, trained):
    options = dict(options)
    model = stack(QuantizerConfig(options.pop("quantizer", "rand"), estimator="pqn", **options))
    if trained:
        models.descend(model.train(), X)
    else:
        with torch.no_grad():
            model.train()[0]._parameters["weight"].mul_(3)  # which the scale has to follow
    exported = torch.export.export(model.eval(), (X,))
    with torch.no_grad():
        assert torch.allclose(exported.module()(X), model(X), atol=1e-6)
        assert not torch.allclose(exported.module()(X), disabled_output(model), atol=1e-3)
        assert type(model[0].weight) is torch.Tensor, "nothing of the export stays"


def disabled_output(model):
    with disabled(model):
        return model(X)


def test_an_export_at_bits_that_scales_were_not_learned_for_is_refused():
    model = stack(TRACKING)
    with evaluating_at(model, 2), pytest.raises(QuantizationError, match="export at 2 bits"):
        torch.export.export(model, (X,))
