"""Lists of systems."""

import runpy

import pytest

from tests.egs2.recipe import EGS2

SYSTEMS = runpy.run_path(str(EGS2 / "TEMPLATE/common/pyscripts/systems.py"))
LINES = """
    float train conf/train.yaml -
    built dry conf/train.yaml - --trailing_silence  full
    rand.1 train conf/train.yaml float --quantizer_conf bits=[2,3]
    taught teach conf/train.yaml float
    noise float - rand.1 --seed 1
    rounded round - built --quantizer absmax
    calibrated calibrate - float --quantizer absmax
    plans plan - rand.1 --average_bits 2.5
    packed pack plans rand.1 --eval_bits plans/average_2.5.yaml
"""
YAML = """
# the same
float: {train: conf/train.yaml}
built: {dry: conf/train.yaml, options: --trailing_silence  full}
rand.1:
    train: conf/train.yaml
    from: float
    options: --quantizer_conf bits=[2,3]
taught: {train: conf/train.yaml, from: float, teacher: float}
noise: {float: rand.1}
rounded: {round: built, options: --quantizer absmax}
calibrated: {calibrate: float, options: --quantizer absmax}
plans: {plan: rand.1, options: --average_bits 2.5}
packed: {pack: rand.1, after: plans, options: --eval_bits plans/average_2.5.yaml}
"""


def test_both_forms_say_the_same():
    systems = SYSTEMS["read_systems"](YAML)
    assert systems == SYSTEMS["read_systems"](LINES)
    assert [tuple(system.values()) for system in systems[2:4]] == [
        ("rand.1", "train", "conf/train.yaml", "float", "-", "-", "--quantizer_conf bits=[2,3]"),
        ("taught", "train", "conf/train.yaml", "float", "float", "-", ""),
    ]
    assert tuple(systems[-1].values())[1:6] == ("pack", "-", "rand.1", "-", "plans")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "it is empty"),
        ("conf/systems.yaml", "a line is NAME MODE CONFIG INIT"),
        ("a learn conf -", "system a: one of train, dry, float, round, calibrate, pack, plan is wanted, not learn"),
        ("a: {train: b, round: c}", "is wanted, not train, round"),
        ("a: {from: c}", "is wanted, not none"),
        ("a: {round: c, from: d}", "system a: 'from' does not go with 'round'"),
        ("a: {round: }", "system a: round which system?"),
        ("a teach conf -", "system a: it has no teacher"),
        ("a train conf -\na train conf -", "system a: it is there twice"),
        ("a: {train: b}\na: {train: c}", "system a: it is there twice"),
        ("a: {dry: c}\nb: {train: c, teacher: a}", "system b: a has no weights of a training"),
        ("a: {train: c, options: --x [1,2]}", "it is no YAML"),
        ("a: {train: [c]}", "system a: train is no text"),
        ("a: conf.yaml", "system a: it says not what it is"),
        ("a/b train conf -", "system 'a/b': a name has no spaces and no /"),
    ],
)
def test_what_means_nothing_is_named_with_its_system(text, reason):
    with pytest.raises(SYSTEMS["ListError"]) as error:
        SYSTEMS["read_systems"](text)
    assert reason in str(error.value)
