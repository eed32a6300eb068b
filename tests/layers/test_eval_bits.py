"""Training at drawn precisions, and evaluation at a chosen one."""

import copy
import io

import models
import pytest
import torch
from torch import nn

from espnet_rand import OptionError, QuantizationError, QuantizerConfig, quantize, set_eval_bits
from espnet_rand.layers import evaluating_at, quantize_new_layers, quantized_layers, quantized_weights

pytestmark = pytest.mark.usefixtures("device")

X = torch.linspace(-1, 1, 18).view(3, 6)
BITS = [2, 3, 4, 8]


def stack(depth=3):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(6, 6) for _ in range(depth)))


def drawn(model):
    """The bits of each weight in the forward that `model(X)` runs: its rounded weights have as many values."""
    found = []

    def look(module, args):
        weight = module.weight.detach()
        fits = [
            bits
            for bits in BITS
            if torch.equal(
                weight,
                module._quantized["weight"].quantizer(module._parameters["weight"].detach(), training=False, bits=bits),
            )
        ]
        assert len(fits) == 1
        found.append(fits[0])

    hooks = [layer.register_forward_pre_hook(look) for _, layer in quantized_layers(model)]
    model(X)
    for hook in hooks:
        hook.remove()
    return found


def draws(forwards, **options):
    model, _ = models.quantized(stack(), QuantizerConfig(bits=BITS, estimator="ste", mode=2, **options))
    return [drawn(model) for _ in range(forwards)]


# -- the draw


@pytest.mark.parametrize("per", ["model", "layer", "weight"])
def test_every_forward_draws_anew(per):
    found = draws(60, per=per)
    assert {bits for forward in found for bits in forward} == set(BITS)
    assert any(len(set(forward)) > 1 for forward in found) == (per != "model")


def test_matrices_of_a_layer_share_the_draw_unless_drawn_per_weight():
    def values(per):
        torch.manual_seed(0)
        model, _ = models.quantized(nn.LSTMCell(6, 6), QuantizerConfig("absmax", bits=[2, 8], estimator="ste", per=per))
        few = []
        for _ in range(20):
            with model._clock.forward(True):
                few.append([len(getattr(model, n).unique()) < 100 for n in ("weight_ih", "weight_hh")])
        return few

    assert all(a == b for a, b in values("layer"))
    assert any(a != b for a, b in values("weight"))


def test_weights_and_schedule_of_the_draw():
    found = draws(400, weights=[3, 1, 0, 1], from_step=[200, 0, 0, 0])
    early, late = ([bits for (bits, *_) in part] for part in (found[:200], found[200:]))
    assert set(early) == {3, 8} and set(late) == {2, 3, 8}
    assert 90 <= late.count(2) <= 150  # of 200, at 3/5


def test_overrides_fix_a_layer():
    found = draws(30, overrides={"1": {"bits": 8}})
    assert {forward[1] for forward in found} == {8} and {forward[0] for forward in found} == set(BITS)


def test_the_draw_is_reproducible_and_survives_a_resume():
    config = QuantizerConfig(bits=BITS, estimator="ste", mode=2, per="layer")
    whole, _ = models.quantized(stack(), config)
    expected = [drawn(whole) for _ in range(12)]
    first, _ = models.quantized(stack(), config)
    assert [drawn(first) for _ in range(6)] == expected[:6]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed, _ = models.quantized(stack(), config)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [drawn(resumed) for _ in range(6)] == expected[6:]


def test_another_seed_draws_otherwise():
    def of(seed):
        stock = stack()
        torch.manual_seed(seed)
        model, _ = models.quantized(stock, QuantizerConfig(bits=BITS, estimator="ste", mode=2))
        return [drawn(model) for _ in range(20)]

    assert of(1) != of(2)


@pytest.mark.parametrize("ranks, same", [("independent", False), ("together", True)])
def test_ranks_draw_each_for_itself_or_together(ranks, same, monkeypatch):
    def of(rank):
        monkeypatch.setattr("espnet_rand.layers.clock._rank", lambda: rank)
        return draws(30, ranks=ranks)

    assert (of(0) == of(1)) == same


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("per", ["model", "weight"])
def test_checkpointing_recomputes_the_same_draw(per, reentrant):
    def gradients(reentrant):
        torch.manual_seed(0)
        model = models.Blocks(reentrant)
        quantize(model, QuantizerConfig(bits=BITS, mode=2, estimator="pqn", per=per))
        x = X.clone().requires_grad_()
        sum(model(x).square().sum() for _ in range(4)).backward()
        return [x.grad, *(p.grad for p in model.parameters())]

    for a, b in zip(gradients(None), gradients(reentrant)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mode", [2, 3])
def test_the_mean_gradient_is_the_weighted_mean_of_the_single_ones(mode):
    """Of a drawn precision, over many forwards: gradients to weights and to the scale that all share."""
    weights = {2: 1, 3: 3, 8: 2}

    def gradients(model, forwards):
        total = None
        for _ in range(forwards):
            model.zero_grad()
            model(X).square().sum().backward()
            grad = torch.cat([p.grad.flatten() for p in model.parameters()])
            total = grad if total is None else total + grad
        return total / forwards

    options = {"estimator": "ste", "mode": mode, "init": "norm"}
    model, _ = models.quantized(stack(1), QuantizerConfig(bits=[*weights], weights=[*weights.values()], **options))
    found = gradients(model, 1000)
    single = {
        bits: gradients(models.quantized(stack(1), QuantizerConfig(bits=bits, **options))[0], 1) for bits in weights
    }
    expected = sum(weight * single[bits] for bits, weight in weights.items()) / sum(weights.values())
    spread = sum(w * (single[b] - expected).square() for b, w in weights.items()) / sum(weights.values())
    assert ((found - expected).abs() <= 4.5 * (spread / 1000).sqrt() + 1e-5 * expected.abs() + 1e-6).all()
    assert not torch.allclose(found, single[2], rtol=0.05)


# -- evaluation


@pytest.mark.parametrize("options", [{"mode": 2}, {"mode": 3, "init": "clip"}], ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_at_b_bits_it_is_the_single_precision_model_bit_for_bit(bits, options):
    """Trained at several, with the same weights and scales."""
    torch.manual_seed(0)
    model, _ = models.quantized(models.Net(), QuantizerConfig(bits=BITS, **options))
    single, _ = models.quantized(models.Net(), QuantizerConfig(bits=bits, **options))
    tokens = torch.arange(14).view(2, 7) % 11
    model(tokens)  # trained: until then a learned scale follows the weights and the bits
    with torch.no_grad():
        for ours, theirs in zip(single.parameters(), model.parameters()):
            ours.copy_(theirs)
    set_eval_bits(model, bits)
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens), single.eval()(tokens))


def test_default_is_the_highest_and_the_cached_weight_follows():
    model, _ = models.quantized(stack(), QuantizerConfig(bits=BITS, mode=2, estimator="pqn"))
    model.eval()
    with torch.no_grad():
        default = model(X)
        with evaluating_at(model, 2):
            two = model(X)
            assert not torch.equal(two, default)
            assert torch.equal(copy.deepcopy(model)(X), two), "a copy keeps the choice"
        assert torch.equal(model(X), default)
        set_eval_bits(model, 8)
        assert torch.equal(model(X), default)


def test_a_plan_gives_each_weight_its_bits():
    model, _ = models.quantized(models.Net(), QuantizerConfig(bits=BITS, mode=2, estimator="pqn"))
    set_eval_bits(model, {"*": 3, "rnn": 5, "rnn.weight_hh_l0": 2, "out.weight": 8})
    bits = {name: weight.quantized.bits for name, weight in quantized_weights(model).items()}
    assert bits["rnn.weight_ih_l0"] == 5 and bits["rnn.weight_hh_l0"] == 2 and bits["conv.weight"] == 3
    assert bits["embed.weight"] == 8, "it is out.weight, too"


def test_a_number_leaves_alone_what_overrides_fixed():
    config = QuantizerConfig(bits=BITS, mode=2, estimator="pqn", overrides={"1": {"bits": 6}})
    model, _ = models.quantized(stack(), config)
    set_eval_bits(model, 2)
    assert [weight.quantized.bits for weight in quantized_weights(model).values()] == [2, 6, 2]
    set_eval_bits(model, {"0": 3, "2": 4})
    assert [weight.quantized.bits for weight in quantized_weights(model).values()] == [3, 6, 4]
    set_eval_bits(model, {"*": 3})
    assert [weight.quantized.bits for weight in quantized_weights(model).values()] == [3, 6, 3]
    set_eval_bits(model, {"*": 3, "1": 4})
    assert [weight.quantized.bits for weight in quantized_weights(model).values()] == [3, 4, 3]


@pytest.mark.parametrize(
    "bits, options, found",
    [
        (BITS, {"from_step": [9, 0, 0, 0]}, [3, 3, 3]),
        (BITS, {"bits": [4, 8]}, [3, 3, 3]),
        (BITS, {"bits": 4}, [3, 4, 3]),
        (4, {"bits": 4}, [3, 4, 3]),
    ],
)
def test_one_number_of_bits_in_overrides_is_fixed_and_nothing_else(bits, options, found):
    model, _ = models.quantized(stack(), QuantizerConfig(bits=bits, estimator="pqn", overrides={"1": options}))
    set_eval_bits(model, 3)
    assert [weight.quantized.bits for weight in quantized_weights(model).values()] == found


@torch.no_grad()
def test_an_untrained_scale_is_that_of_the_bits():
    options = {"mode": 3, "init": "clip", "estimator": "pqn"}
    single, _ = models.quantized(stack(), QuantizerConfig(bits=2, **options))
    for bits in (4, BITS):
        model, _ = models.quantized(stack(), QuantizerConfig(bits=bits, **options))
        default = model.eval()(X)
        with evaluating_at(model, 2):
            assert torch.equal(model(X), single.eval()(X))
        assert torch.equal(model(X), default)


def test_training_starts_the_same_whatever_it_is_to_evaluate_at():
    options = {"mode": 3, "init": "clip", "estimator": "ste"}
    plain, asked = (models.quantized(stack(), QuantizerConfig(bits=BITS, **options))[0] for _ in range(2))
    set_eval_bits(asked, 2)
    with torch.no_grad():
        asked.eval()(X)
    assert plain.state_dict().keys() == asked.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), asked.state_dict().values()))
    assert torch.equal(plain.train()(X), asked.train()(X))


def test_layers_that_come_later_draw_for_themselves():
    model, _ = models.quantized(stack(2), QuantizerConfig(bits=BITS, estimator="ste", mode=2, per="layer"))
    model.extend(stack(2))
    quantize_new_layers(model)
    found = [drawn(model) for _ in range(20)]
    assert [old for old, _, _, _ in found] != [new for _, _, new, _ in found]


@pytest.mark.parametrize(
    "bits, named",
    [
        (9, ["eval_bits: 9 is not allowed", "2 to 8"]),
        ({"0": 4, "1": 4, "2": 1}, ["eval_bits: 2: 1 is not allowed"]),
        ({"*": 4, "encoder.0": 2}, ["'encoder.0' names no quantized weight", "0.weight"]),
        ({"0": 4}, ["2 of 3 weights no bits: 1.weight, 2.weight"]),
        ({}, ["3 of 3"]),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(bits, named):
    model, _ = models.quantized(stack(), QuantizerConfig(bits=BITS, mode=2, estimator="pqn"))
    set_eval_bits(model, 3)
    with pytest.raises(OptionError) as error:
        set_eval_bits(model, bits)
    assert all(part in str(error.value) for part in named) and "\n" not in str(error.value)
    assert {weight.quantized.bits for weight in quantized_weights(model).values()} == {3}


def test_learned_step_sizes_belong_to_their_bits():
    model, _ = models.quantized(stack(), QuantizerConfig("lsc", bits=4, init="lsq+", estimator="pqn"))
    set_eval_bits(model, 4)
    with pytest.raises(OptionError, match="5 is not allowed for 0.weight, it must be 4"):
        set_eval_bits(model, 5)


def test_a_float_model_has_no_bits():
    with pytest.raises(QuantizationError, match="not quantized"):
        set_eval_bits(stack(), 4)
