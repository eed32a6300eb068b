import math

import pytest
import yaml

from espnet_rand import OptionError, QuantizerConfig
from espnet_rand.config import FormerConfig, merged
from espnet_rand.quantizers import (
    Clip,
    LearnedScale,
    Noise,
    PerChannel,
    PerGroup,
    PerTensor,
    Precision,
    Rand,
    StraightThrough,
    WeightQuantizer,
)


def test_defaults_are_rand_mode_3_at_4_bits_straight_through_for_each_channel():
    quantizer = QuantizerConfig().weight_quantizer([])
    assert quantizer == WeightQuantizer(
        Rand(3, 8, 2, init="clip"), StraightThrough(), PerChannel(), Precision(4), start_step=0
    )


def test_options_reach_the_quantizer():
    config = QuantizerConfig(
        "clip", bits=3, estimator="ste", granularity="group", group_size=7, start_step=9, candidates=4, a_min=0.5
    )
    assert config.weight_quantizer([]) == WeightQuantizer(
        Clip(a_min=0.5, candidates=4), StraightThrough(), PerGroup(7), Precision(3), start_step=9
    )


# what is wrong -> what the message must name: the key, the value, what is allowed
WRONG = [
    ({"bits": 1}, ["bits", "1", "2", "8"]),
    ({"bits": 9}, ["bits", "9", "2", "8"]),
    ({"bits": "4"}, ["bits", "'4'", "integer"]),
    ({"bits": 4.0}, ["bits", "4.0", "integer"]),
    ({"bits": True}, ["bits", "True", "integer"]),
    ({"bits": [2, 9]}, ["bits", "[2, 9]", "integers from 2 to 8"]),
    ({"bits": []}, ["bits", "[]", "different"]),
    ({"bits": [4, 4]}, ["bits", "[4, 4]", "different"]),
    ({"bits": [2, 4], "weights": [1]}, ["weights", "[1]", "[2, 4]"]),
    ({"bits": [2, 4], "weights": [1, -1]}, ["weights", "-1", "from 0"]),
    ({"bits": [2, 4], "weights": [0, 0]}, ["weights", "nothing"]),
    ({"bits": [2, 4], "from_step": [9, 9]}, ["from_step", "nothing"]),
    ({"bits": [2, 4], "per": "head"}, ["per", "head", "model, layer, weight"]),
    ({"bits": [2, 4], "ranks": "apart"}, ["ranks", "apart", "independent, together"]),
    ({"quantizer": "lsc", "bits": [2, 4]}, ["bits", "[2, 4]", "one number", "lsc"]),
    ({"bits": [2, 4], "overrides": {"a": {"quantizer": "lsc"}}}, ["overrides", "a", "one number"]),
    ({"eval_bits": 4}, ["eval_bits", "4", "list"]),
    ({"eval_bits": [1]}, ["eval_bits", "[1]", "2 to 8"]),
    ({"per": "layer"}, ["per", "layer", "one number of bits"]),
    ({"mode": 4}, ["mode", "4", "1, 2, 3"]),
    ({"mode": True}, ["mode", "True", "1, 2, 3"]),
    ({"p": 0.5}, ["p", "0.5", "at least 1"]),
    ({"p": math.nan}, ["p", "nan", "at least 1"]),
    ({"p": "8"}, ["p", "'8'", "number"]),
    ({"k": 0}, ["k", "0", "from 1"]),
    ({"k": math.inf}, ["k", "inf", "1"]),
    ({"init": "clipped"}, ["init", "clipped", "norm, clip"]),
    ({"estimator": "pqn", "noise": "laplace"}, ["noise", "laplace", "uniform, normal"]),
    ({"estimator": "dither"}, ["estimator", "dither", "ste, pqn"]),
    ({"granularity": "row"}, ["granularity", "row", "tensor, channel, group, column"]),
    ({"granularity": "group", "group_size": 0}, ["group_size", "0", "at least 1"]),
    ({"start_step": -1}, ["start_step", "-1", "at least 0"]),
    ({"quantizer": "lsq"}, ["quantizer", "lsq", "rand, absmax, lsc, clip"]),
    ({"quantizer": None}, ["quantizer", "None", "rand, absmax, lsc, clip"]),
    ({"quantizer": ["rand"]}, ["quantizer", "rand", "absmax"]),
    ({"quantizer": "lsc", "init": "norm"}, ["init", "norm", "lsq+, lsq, absmax, clip"]),
    ({"quantizer": "clip", "a_min": 0}, ["a_min", "0", "0.01", "1"]),
    ({"quantizer": "clip", "candidates": 0}, ["candidates", "0", "1"]),
    ({"quantizer": "clip", "error": "cubed"}, ["error", "cubed", "squared, absolute"]),
    ({"include": "encoder.*"}, ["include", "encoder.*", "list"]),
    ({"exclude": [3]}, ["exclude", "3", "list"]),
    ({"exclude": [""]}, ["exclude", "''", "list"]),
    ({"depthwise": 1}, ["depthwise", "1", "true or false"]),
    ({"overrides": ["a"]}, ["overrides", "a", "mapping"]),
    ({"overrides": {"a": 8}}, ["overrides", "8", "mapping"]),
    ({"overrides": {"enc.*": {"bits": 1}}}, ["overrides", "enc.*", "bits", "1", "2", "8"]),
    ({"overrides": {"enc.*": {"include": ["a"]}}}, ["overrides", "enc.*", "include", "bits", "c, quantizer"]),
    # options that do not exist, or not for this choice
    ({"bitz": 77}, ["bitz", "77", "bits", "granularity"]),
    ({"quantizer": "absmax", "mode": 2}, ["mode", "2", "absmax", "bits"]),
    ({"group_size": 32}, ["group_size", "32", "granularity channel"]),
    ({"estimator": "ste", "noise": "normal"}, ["noise", "normal", "estimator ste"]),
]


@pytest.mark.parametrize("options, named", WRONG, ids=[str(options) for options, _ in WRONG])
def test_an_error_names_key_value_and_what_is_allowed(options, named):
    with pytest.raises(OptionError) as error:
        QuantizerConfig(**options)
    message = str(error.value)
    assert "\n" not in message
    for part in named:
        assert part in message


@pytest.mark.parametrize(
    "options, named",
    [
        ({"quantiser": "rand"}, ["quantiser", "quantizer_conf"]),
        ({"quantizer_conf": 4}, ["quantizer_conf", "4", "mapping"]),
        ({"quantizer_conf": {"quantizer": "rand"}}, ["quantizer_conf", "quantizer"]),
        ({"quantizer_conf": {4: 4}}, ["4", "bits"]),
        ({"quantizer_conf": {"self": 1}}, ["self", "bits"]),
    ],
)
def test_an_error_in_the_mapping_names_it(options, named):
    with pytest.raises(OptionError) as error:
        QuantizerConfig.from_dict(options)
    assert all(part in str(error.value) for part in named)


def test_an_old_config_of_a_training_is_what_it_was():
    """Version 0.1 wrote overrides as they were given."""
    old = {
        "quantizer": "absmax",
        "quantizer_conf": {"overrides": {"a": {"quantizer": "rand"}, "b": {"quantizer": "lsc"}}},
    }
    config = FormerConfig.from_dict(old)
    assert config.weight_quantizer([]).estimator == Noise()
    assert config.weight_quantizer(["a"]).scale == Rand(mode=2, init="norm")
    assert config.weight_quantizer(["b"]).scale == LearnedScale(init="lsq+")
    now = FormerConfig.from_dict(QuantizerConfig.from_dict(old).to_dict())
    assert now.weight_quantizer(["a"]).scale == Rand(mode=3, init="clip"), "what new trainings write"
    assert now.weight_quantizer(["b"]).scale == LearnedScale(init="clip")


def test_differing_names_what_has_an_effect():
    paper = QuantizerConfig("rand", mode=2, init="norm", estimator="pqn")
    assert QuantizerConfig().differing(paper) == (
        {"mode": 3, "init": "clip", "estimator": "ste"},
        {"mode": 2, "estimator": "pqn"},
    )
    assert not any(paper.differing(QuantizerConfig("rand", mode=2, estimator="pqn", eval_bits=[3])))
    assert paper.differing(QuantizerConfig("absmax", noise="normal", estimator="pqn"))[1] == {
        "quantizer": "absmax",
        "noise": "normal",
    }
    _, there = QuantizerConfig().differing(QuantizerConfig(overrides={"a": {"mode": 2}}))
    assert there == {"overrides": {"a": {"mode": 2}}}


def test_a_new_choice_over_a_preset_drops_the_options_of_the_old():
    conf = {"bits": [2, 4], "ranks": "together", "mode": 2, "estimator": "pqn", "noise": "normal"}
    preset = {"quantizer": "rand", "quantizer_conf": conf}
    assert merged(preset, None, {"estimator": "ste"})["quantizer_conf"] == {
        **_without(conf, "noise"),
        "estimator": "ste",
    }
    assert merged(preset, "clip", {}) == {"quantizer": "clip", "quantizer_conf": _without(conf, "mode")}
    assert merged(preset, None, {"bits": 3})["quantizer_conf"] == {**_without(conf, "ranks"), "bits": 3}
    assert merged(preset, "rand", {"mode": 1, "bits": [3]}) == {
        "quantizer": "rand",
        "quantizer_conf": {**conf, "mode": 1, "bits": [3]},
    }


def _without(options, name):
    return {other: value for other, value in options.items() if other != name}


@pytest.mark.parametrize(
    "config",
    [
        QuantizerConfig(),
        QuantizerConfig("absmax", estimator="ste", granularity="tensor", bits=8),
        QuantizerConfig("lsc", granularity="group", group_size=16, init="clip", start_step=3),
        QuantizerConfig("rand", p=math.inf, include=["enc*"], exclude=["*.out"], depthwise=True),
        QuantizerConfig(
            bits=(2, 8), weights=[1, 0.5], per="layer", overrides={"a": {"bits": 4}}, eval_bits=[2, "p.yaml"]
        ),
        QuantizerConfig(overrides={"a": {"bits": [3, 4], "ranks": "together"}}),
        QuantizerConfig("clip", overrides={"a.*": {"bits": 8}, "b": {"quantizer": "rand", "mode": 3}}),
    ],
    ids=str,
)
def test_dict_and_yaml_round_trip(config):
    plain = yaml.safe_load(yaml.safe_dump(config.to_dict()))
    again = QuantizerConfig.from_dict(plain)
    assert again == config and again.to_dict() == config.to_dict()
    patterns = list(config.overrides)
    assert again.weight_quantizer(patterns) == config.weight_quantizer(patterns)


def test_an_empty_mapping_is_the_default():
    assert QuantizerConfig.from_dict({}) == QuantizerConfig.from_dict({"quantizer_conf": None}) == QuantizerConfig()
    assert QuantizerConfig() != QuantizerConfig(bits=3)


def test_overrides_change_what_they_name_and_keep_the_rest():
    config = QuantizerConfig("rand", bits=4, mode=1, estimator="pqn", noise="normal", overrides={"a": {"bits": 8}})
    assert config.weight_quantizer(["a"]) == WeightQuantizer(Rand(mode=1), Noise("normal"), PerChannel(), Precision(8))
    assert config.weight_quantizer([]).precision == Precision(4)


def test_the_later_override_wins():
    config = QuantizerConfig(overrides={"a": {"bits": 8, "p": 4}, "b": {"bits": 2}})
    quantizer = config.weight_quantizer(["a", "b"])
    assert (quantizer.precision.bits, quantizer.scale.p) == (2, 4)


def test_another_choice_in_an_override_starts_from_its_own_defaults():
    config = QuantizerConfig(
        "rand", mode=3, init="clip", overrides={"a": {"quantizer": "lsc"}, "b": {"granularity": "tensor"}}
    )
    assert config.weight_quantizer(["a"]).scale == LearnedScale(init="clip")
    assert config.weight_quantizer(["b"]) == WeightQuantizer(Rand(mode=3, init="clip"), granularity=PerTensor())


def test_later_changes_of_the_mapping_change_nothing():
    options = {"quantizer_conf": {"overrides": {"a": {"bits": 8}}, "include": ["*"]}}
    config = QuantizerConfig.from_dict(options)
    before = QuantizerConfig.from_dict(config.to_dict())
    options["quantizer_conf"]["overrides"]["a"]["bits"] = 2
    config.to_dict()["quantizer_conf"]["overrides"]["a"]["bits"] = 2
    assert config == before
