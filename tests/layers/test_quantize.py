import copy
import math

import models
import pytest
import torch
from torch import nn

import espnet_rand
from espnet_rand import OptionError, QuantizationError, QuantizerConfig, disabled, quantize

TOKENS = torch.arange(10).view(2, 5)
ALL = [
    "embed.weight",
    "conv.weight",
    "rnn.weight_ih_l0",
    "rnn.weight_hh_l0",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
]


def names(**conf):
    report = quantize(models.Net(), QuantizerConfig(**conf))
    return [entry.name for entry in report.quantized]


@pytest.mark.parametrize(
    "conf, expected",
    [
        ({}, ALL),
        ({"include": ["rnn"]}, ALL[2:4]),
        ({"include": ["attention.*"]}, ALL[5:]),
        ({"include": ["attention", "conv"]}, [ALL[1], *ALL[4:]]),
        ({"exclude": ["att*", "embed", "out"]}, ALL[1:4]),
        ({"include": ["*"], "exclude": ["*.out_proj"]}, ALL[:5]),
    ],
    ids=str,
)
def test_include_and_exclude(conf, expected):
    assert names(**conf) == expected


def test_what_is_not_included_stays_float():
    stock = models.Net().eval()
    model, report = models.quantized(stock, QuantizerConfig(include=["conv"]))
    reasons = {entry.name: entry.reason for entry in report.left_in_float}
    assert reasons["rnn"] == "not in include" and "LayerNorm" in reasons["norm"]
    embedded = [m.embed(TOKENS) for m in (stock, model.eval())]
    assert torch.equal(*embedded)


def test_overrides_reach_the_layers_that_they_match():
    overrides = {"attention": {"bits": 8}, "attention.out_proj": {"granularity": "tensor", "quantizer": "lsc"}}
    report = quantize(models.Net(), QuantizerConfig(bits=3, overrides=overrides))
    bits = {entry.name: entry.bits for entry in report.quantized}
    assert bits == {**dict.fromkeys(ALL, 3), ALL[4]: 8, ALL[5]: 8}
    assert report.quantized[-1].scales == 1 and "LearnedScale" in report.quantized[-1].quantizer


def test_overridden_layers_compute_with_their_own_options():
    stock, config = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), QuantizerConfig(overrides={"1": {"bits": 8}})
    model, _ = models.quantized(stock, config)
    model.eval()
    for n, patterns in enumerate(([], ["1"])):
        quantizer, weight = config.weight_quantizer(patterns), stock[n].weight
        assert torch.equal(model[n].weight, quantizer.decode(*quantizer.encode(weight)))


@pytest.mark.parametrize("key", ["include", "exclude", "overrides"])
def test_a_pattern_that_matches_nothing_names_itself_and_near_matches(key):
    conf = {key: {"atention.*": {"bits": 8}} if key == "overrides" else ["atention.*"]}
    model = models.Net()
    with pytest.raises(OptionError) as error:
        quantize(model, QuantizerConfig(**conf))
    message = str(error.value)
    assert key in message and "'atention.*'" in message and "attention" in message.split("near")[1]
    quantize(model, {})  # nothing was changed


def test_a_pattern_may_name_a_layer_by_any_of_its_names():
    model = nn.ModuleDict({"first": nn.Linear(3, 3), "other": nn.Linear(3, 3)})
    model["second"] = model["first"]
    report = quantize(model, QuantizerConfig(include=["second"]))
    assert len(report.quantized) == 1


@pytest.mark.parametrize(
    "model, named",
    [(nn.Sequential(nn.LayerNorm(3)), "LayerNorm"), (nn.Sequential(nn.ReLU()), "parameters")],
)
def test_nothing_to_quantize_is_an_error(model, named):
    with pytest.raises(QuantizationError, match=named):
        quantize(model, {})


def test_all_excluded_is_an_error():
    with pytest.raises(QuantizationError, match="exclude"):
        quantize(nn.Sequential(nn.Linear(3, 3)), QuantizerConfig(exclude=["*"]))


@pytest.mark.parametrize("part", [lambda m: m, lambda m: m.attention], ids=["whole", "part"])
def test_quantizing_twice_is_an_error(part):
    model = models.Net()
    quantize(part(model), {})
    with pytest.raises(QuantizationError, match="Net is quantized already"):
        quantize(model, {})


def test_tied_weights_with_other_options_are_an_error_that_names_both():
    model = models.Net()
    kinds = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(QuantizationError, match="embed.weight and out.weight"):
        quantize(model, QuantizerConfig("lsc", overrides={"out": {"bits": 8}}))
    assert kinds == {name: type(module) for name, module in model.named_modules()}
    assert not any(name.endswith(espnet_rand.layers.SCALE_SUFFIX) for name, _ in model.named_parameters())


def test_tied_weights_with_the_same_overrides_are_fine():
    overrides = {name: {"bits": 8} for name in ("out", "embed")}
    report = quantize(models.Net(), QuantizerConfig(overrides=overrides))
    assert report.quantized[0].bits == 8
    assert report.to_dict()["quantized"][0]["shared"] == ["out.weight"] and "embed.weight " in str(report)
    assert ["embed.weight", "out.weight"] in [line.split() for line in str(report).splitlines()]


@pytest.mark.parametrize("alone, other", [("embed", "out"), ("out", "embed")])
def test_tied_weights_of_which_one_would_stay_in_float_are_an_error(alone, other):
    model = models.Net()
    with pytest.raises(QuantizationError, match=rf"{other}.weight is also a weight of {alone}.*: exclude both"):
        quantize(model, QuantizerConfig("absmax", exclude=[alone]))
    assert not espnet_rand.layers.quantized_layers(model)


@pytest.mark.parametrize("exclude", [[], ["embed", "out"]])
def test_tied_weights_are_counted_once(exclude):
    model = models.Net()
    size = sum(parameter.numel() for parameter in model.parameters())
    report = quantize(model, QuantizerConfig("absmax", exclude=exclude))
    counted = sum(math.prod(entry.shape) for entry in report.quantized)
    assert counted + sum(entry.parameters for entry in report.left_in_float) == size


def test_overrides_that_do_not_go_together_name_a_pattern():
    config = QuantizerConfig(overrides={"conv": {"quantizer": "lsc"}, "*": {"mode": 3}})
    with pytest.raises(OptionError, match=r"overrides.*mode"):
        quantize(models.Net(), config)


def test_a_mapping_is_checked_like_a_config():
    with pytest.raises(OptionError, match="bits: 9"):
        quantize(models.Net(), {"quantizer": "rand", "quantizer_conf": {"bits": 9}})


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "normed",
    [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
)
def test_computed_weights_are_left_in_float(normed):
    model = nn.Sequential(normed(nn.Linear(4, 4)), nn.Linear(4, 4)).eval()
    x = torch.randn(2, 4)
    before = model[0](x)
    report = quantize(model, {})
    assert [entry.name for entry in report.quantized] == ["1.weight"]
    assert any(e.name.startswith("0") and "parametriz" in e.reason.lower() for e in report.left_in_float)
    assert torch.equal(model[0](x), before)


def test_disabled_is_float_in_both_modes_and_ends():
    stock = models.Net()
    model, _ = models.quantized(stock, {})
    for training in (True, False):
        model.train(training), stock.train(training)
        with pytest.raises(ValueError), disabled(model):
            assert torch.equal(model(TOKENS), stock(TOKENS))
            with disabled(model):
                pass
            assert torch.equal(model(TOKENS), stock(TOKENS))
            raise ValueError
        assert not torch.equal(model(TOKENS), stock(TOKENS))


def test_disabled_needs_a_quantized_model():
    with pytest.raises(QuantizationError, match="Linear"), disabled(nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("estimator", ["ste", "pqn"])
def test_a_compiled_model_trains_the_same(estimator):
    """Fresh noise, counted forwards, and graphs that are made once."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    model, _ = models.quantized(models.Net(), QuantizerConfig(mode=3, estimator=estimator, start_step=3))
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend)
    made = []
    for _ in range(6):
        for trained in (compiled, twin):
            models.descend(trained, TOKENS)
        made.append(len(graphs))
    assert made[0] > 0 and made[-1] == made[0]
    for (name, a), b in zip(model.named_parameters(), twin.parameters()):
        assert torch.equal(a, b), name
    assert model._quantization.clock.forwards == 6
    assert torch.equal(compiled.eval()(TOKENS), twin.eval()(TOKENS))
