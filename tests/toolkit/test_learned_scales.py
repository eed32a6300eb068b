"""Learned scales of checkpoints: of another quantizer they start anew, and a float model does without them."""

import re
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand import OptionError
from espnet_rand.bin import pack_weights, quantize_weights, strip_scales

espnet_rand.register()

from espnet2.main_funcs.average_nbest_models import average_nbest_models  # noqa: E402
from espnet2.tasks import abs_task  # noqa: E402
from espnet2.train.reporter import Reporter  # noqa: E402

from espnet_rand.layers import quantized_weights  # noqa: E402
from espnet_rand.packing import read_packed  # noqa: E402
from espnet_rand.quantizers import Grid, Noise  # noqa: E402
from espnet_rand.quantizers import Rand as RandScale  # noqa: E402
from tests.toolkit import tasks  # noqa: E402

LOAD = abs_task.load_pretrained_model
V1 = Path(__file__).parents[1] / "fixtures/v1/asr"
LSC = {"quantizer": "lsc", "quantizer_conf": {"bits": 4}}
RAND = {"quantizer": "rand", "quantizer_conf": {"mode": 3, "bits": 4}}
GROUPS = {"granularity": "group", "group_size": 4}


def with_(quantizer, **conf):
    return {**quantizer, "quantizer_conf": {**quantizer["quantizer_conf"], **conf}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directory of an ASR model's config.yaml, in float."""
    return tasks.write_config("asr", tmp_path_factory.mktemp("scales") / "asr")[1]


@pytest.fixture(scope="module")
def built(folder):
    """A new model, quantized as it is said."""
    task, config = tasks.find_task("asr"), yaml.safe_load((folder / "config.yaml").read_text())

    def built(seed=0, **quantizer):
        torch.manual_seed(seed)
        return task.build_model(Namespace(**{**config, **quantizer}))

    return built


def trained(model):
    """The state of a model whose scales nobody can compute from the weights."""
    state = model.state_dict()
    for key in scales(state):
        state[key] = state[key] * 1.3 + 0.01
    return state


def scales(state):
    return {key: value for key, value in state.items() if key.endswith("_quantizer_scale")}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


CHANGES = {
    "other bits": (LSC, with_(LSC, bits=2)),
    "more bits": (LSC, with_(LSC, bits=8)),
    "another quantizer": (RAND, LSC),
    "and back": (LSC, RAND),
    "another p": (RAND, with_(RAND, p=2)),
    "several bits": (RAND, with_(RAND, bits=[2, 4])),
    "another granularity": (LSC, with_(LSC, **GROUPS)),
    "other groups": (with_(LSC, **GROUPS), with_(LSC, granularity="group", group_size=8)),
}


@pytest.mark.parametrize("old, new", CHANGES.values(), ids=CHANGES)
def test_scales_of_another_quantizer_start_from_the_weights(built, tmp_path, caplog, old, new):
    state = trained(built(**old))
    torch.save(state, tmp_path / "start.pth")
    fresh, model = built(1, **new), built(1, **new)
    fresh.load_state_dict({k: v for k, v in state.items() if k not in scales(state)}, strict=False)
    LOAD(str(tmp_path / "start.pth"), model, False)
    assert same(model.state_dict(), fresh.state_dict())
    assert re.search(r"learned scales of \d+ weights .* start from the weights", caplog.text)


@pytest.mark.parametrize("quantizer", [LSC, RAND, with_(LSC, **GROUPS), with_(RAND, bits=[2, 4], p=8.5)], ids=str)
def test_scales_of_the_same_quantizer_are_taken_whatever_became_of_the_file(built, tmp_path, caplog, quantizer):
    """Also the average of several checkpoints, and where options differ that say no more than where scales start."""
    states = [trained(built(seed, **quantizer)) for seed in (0, 1)]
    reporter = Reporter()
    for epoch, state in enumerate(states, 1):
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as sub:
            sub.register({"loss": 1.0 / epoch})
            sub.next()
        torch.save(state, tmp_path / f"{epoch}epoch.pth")
    average_nbest_models(tmp_path, reporter, [("valid", "loss", "min")], 2)
    averaged = torch.load(tmp_path / "valid.loss.ave_2best.pth", weights_only=True)
    for name, state in (("1epoch.pth", states[0]), ("valid.loss.ave_2best.pth", averaged)):
        others = {"init": "clip", "estimator": "ste", "start_step": 3}
        model = built(2, **with_(quantizer, **others))
        LOAD(str(tmp_path / name), model, False)
        assert same(scales(model.state_dict()), scales(state)) and scales(state)
    assert "start from the weights" not in caplog.text


def test_scales_of_overrides_are_told_apart(built, tmp_path, caplog):
    state = trained(built(**with_(LSC, overrides={"decoder": {"bits": 8}})))
    torch.save(state, tmp_path / "start.pth")
    model = built(1, **LSC)
    LOAD(str(tmp_path / "start.pth"), model, False)
    taken = {
        key for key, value in scales(model.state_dict()).items() if key in state and torch.equal(value, state[key])
    }
    assert taken == {key for key in scales(state) if not key.startswith("decoder.")}
    assert "lsc_channel_w8, the model's lsc_channel_w4" in caplog.text


# -- checkpoints of version 0.1, which do not say what their scales are: of lsc, 3 bits, decoder.embed by columns

OLD = yaml.safe_load((V1 / "config.yaml").read_text())
OLD_OPTIONS = {name: OLD[name] for name in ("quantizer", "quantizer_conf")}


def old_scales():
    state = torch.load(V1 / "model.pth", weights_only=True)
    return {key.removesuffix("_quantizer_scale"): value for key, value in scales(state).items()}


def taken(model):
    state, old = scales(model.state_dict()), old_scales()
    return [weight for key in state if torch.equal(state[key], old.get(weight := key.split("__")[0], torch.empty(0)))]


def test_scales_of_version_01_are_those_of_the_config_beside_them(built, caplog):
    model = built(**OLD_OPTIONS)
    LOAD(str(V1 / "model.pth"), model, False)
    assert len(taken(model)) == len(old_scales()) and "scales" not in caplog.text
    other = built(**with_(OLD_OPTIONS, bits=4))
    LOAD(str(V1 / "model.pth"), other, False)
    assert not taken(other) and "start from the weights" in caplog.text


def test_scales_of_version_01_without_a_config_are_taken_with_a_warning(built, tmp_path, caplog):
    shutil.copy(V1 / "model.pth", tmp_path)
    model = built(**with_(OLD_OPTIONS, overrides={}))
    LOAD(str(tmp_path / "model.pth"), model, False)
    assert len(old_scales()) - len(taken(model)) == 1, "all but decoder.embed, which has other groups"
    assert "do not say what they are" in caplog.text


def test_version_01_is_decoded_and_packed_as_ever(tmp_path, caplog):
    task = tasks.find_task("asr")
    model, _ = task.build_model_from_file(V1 / "config.yaml", V1 / "model.pth")
    assert len(taken(model)) == len(old_scales()) and "scales" not in caplog.text
    arguments = [
        "--train_config",
        V1 / "config.yaml",
        "--model_file",
        V1 / "model.pth",
        "--output",
        tmp_path / "packed",
    ]
    pack_weights.main(list(map(str, arguments)))
    found, wanted = read_packed(tmp_path / "packed").weights, read_packed(V1 / "model.safetensors").weights
    assert all(torch.equal(found[name].codes(), weight.codes()) for name, weight in wanted.items())
    assert all(torch.equal(found[name].scales, weight.scales) for name, weight in wanted.items())


# -- decoding and packing, by the wrong config.yaml


@pytest.fixture(scope="module")
def quantized(folder, built):
    """config.yaml and model.pth of a trained model."""
    (folder / "lsc").mkdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "lsc/config.yaml").write_text(yaml.safe_dump({**config, **LSC}))
    torch.save(trained(built(**LSC)), folder / "lsc/model.pth")
    return folder / "lsc"


def test_another_config_is_refused(quantized, tmp_path, capsys):
    config = yaml.safe_load((quantized / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, **with_(LSC, bits=2)}))
    with pytest.raises(OptionError, match="another than .*: lsc_channel_w4 there, lsc_channel_w2 here.* config.yaml"):
        tasks.find_task("asr").build_model_from_file(tmp_path / "config.yaml", quantized / "model.pth")
    arguments = ["--train_config", tmp_path / "config.yaml", "--model_file", quantized / "model.pth"]
    with pytest.raises(SystemExit, match="does not fit the model of .*lsc_channel_w4"):
        pack_weights.main([*map(str, arguments), "--output", str(tmp_path / "packed")])
    assert not (tmp_path / "packed").exists()


def test_a_checkpoint_without_scales_is_refused(quantized, tmp_path):
    """As stripped or unpacked ones are, beside the config.yaml of the quantized training."""
    strip_scales.main(["--model_file", str(quantized / "model.pth"), "--output", str(tmp_path / "float.pth")])
    with pytest.raises(OptionError, match="no learned scales for 25 weights"):
        tasks.find_task("asr").build_model_from_file(quantized / "config.yaml", tmp_path / "float.pth")
    arguments = ["--train_config", quantized / "config.yaml", "--model_file", tmp_path / "float.pth"]
    with pytest.raises(SystemExit, match="lacks the learned scales of 25 weights"):
        pack_weights.main([*map(str, arguments), "--output", str(tmp_path / "packed")])


def test_version_01_is_not_decoded_by_another_config(quantized, tmp_path):
    """The config.yaml beside the checkpoint says what its scales are."""
    with pytest.raises(OptionError, match="lsc_channel_w3 there, lsc_channel_w4 here"):
        tasks.find_task("asr").build_model_from_file(quantized / "config.yaml", V1 / "model.pth")


def test_a_config_without_quantizer_is_warned_of(folder, quantized, caplog):
    model, _ = tasks.find_task("asr").build_model_from_file(folder / "config.yaml", quantized / "model.pth")
    assert not scales(model.state_dict()) and "computes in float" in caplog.text


def test_rounding_by_other_options_says_so(folder, quantized, tmp_path, capsys):
    common = ["--train_config", folder / "config.yaml", "--model_file", quantized / "model.pth", "--quantizer", "lsc"]
    quantize_weights.main([*map(str, common), "--quantizer_conf", "bits=2", "--output", str(tmp_path / "packed")])
    assert "start from the weights" in capsys.readouterr().out


# -- a float training


def test_a_float_training_starts_from_a_quantized_one(corpus, train, built, quantized, tmp_path, caplog):
    train(
        "--config", corpus.config, "--quantizer", "lsc", "--output_dir", tmp_path / "lsc",
    )  # fmt: skip
    for given in ("valid.loss.ave.pth", "checkpoint.pth"):
        train(
            "--config", corpus.config, "--init_param", tmp_path / "lsc" / given, "--output_dir", tmp_path / given,
            "--optim_conf", "lr=0.0",
        )  # fmt: skip
        start, end = (
            torch.load(tmp_path / name, weights_only=True) for name in ("lsc/1epoch.pth", f"{given}/1epoch.pth")
        )
        assert end.keys() == start.keys() - scales(start).keys()
        weights = [name for name in end if name.endswith(".weight") and "norm" not in name]
        assert weights and all(torch.equal(end[name], start[name]) for name in weights)
    assert "which the model lacks" in caplog.text


def test_scales_are_stripped_for_plain_python(quantized, built, tmp_path, run, capsys):
    strip_scales.main(["--model_file", str(quantized / "model.pth"), "--output", str(tmp_path / "float.pth")])
    stripped, whole = (torch.load(p, weights_only=True) for p in (tmp_path / "float.pth", quantized / "model.pth"))
    assert same(stripped, {key: value for key, value in whole.items() if key not in scales(whole)})
    built().load_state_dict(stripped)
    for given, message in ((tmp_path / "float.pth", "no learned scales"), (tmp_path / "x.pth", "no such file")):
        with pytest.raises(SystemExit, match=message):
            strip_scales.main(["--model_file", str(given), "--output", str(tmp_path / "again.pth")])
    with pytest.raises(SystemExit, match="unpack_weights"):
        strip_scales.main(["--model_file", str(V1 / "model.safetensors"), "--output", str(tmp_path / "again.pth")])


# -- resuming


def quantizer(options):
    conf = [f"--quantizer_conf={name}={value}" for name, value in options.get("quantizer_conf", {}).items()]
    return ["--quantizer", options["quantizer"], *conf] if options else []


@pytest.fixture
def exp(corpus, train, tmp_path):
    """Trains with a quantizer (or without), in one directory."""

    def exp(options, epochs=1):
        common = ("--config", corpus.config, "--output_dir", tmp_path, "--resume", "true", "--max_epoch", epochs)
        train(*common, *quantizer(options))
        return tmp_path

    return exp


@pytest.mark.parametrize(
    "old, new, message",
    [
        ({}, LSC, "begun without a quantizer, and can't be resumed with one"),
        ({}, {"quantizer": "absmax"}, "begun without a quantizer"),
        (LSC, {}, "begun with a quantizer, and can't be resumed without one"),
        (
            LSC,
            with_(LSC, **GROUPS),
            "granularity is group here, channel there.*add --quantizer_conf granularity=channel, or ",
        ),
        (LSC, with_(LSC, bits=2), "bits is 2 here, 4 there. Fix: add --quantizer_conf bits=4, or "),
        (LSC, with_(LSC, estimator="pqn"), "add --quantizer_conf estimator=ste, or "),
        (LSC, {"quantizer": "absmax"}, "quantizer is absmax here, lsc there. Fix: add --quantizer lsc, or "),
        (
            with_(RAND, mode=2, estimator="pqn"),
            {"quantizer": "rand"},
            "--quantizer_conf estimator=pqn --quantizer_conf mode=2",
        ),
        (
            LSC,
            with_(LSC, exclude="[decoder]"),
            r"exclude is .*decoder.* here.*add --quantizer_conf 'exclude=\[\]', or ",
        ),
        ({"quantizer": "absmax"}, {"quantizer": "absmax", "quantizer_conf": {"bits": 2}}, "bits is 2 here"),
        ({"quantizer": "absmax"}, {"quantizer": "clip"}, "quantizer is clip here, absmax there"),
    ],
    ids=str,
)
def test_resuming_a_training_of_another_kind_is_refused_before_anything_is_written(exp, old, new, message):
    folder = exp(old)
    before = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    with pytest.raises(OptionError, match=message + ".* --init_param .*latest.pth"):
        exp(new, 2)
    after = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    assert after == before


def test_a_training_of_other_defaults_is_decoded_and_goes_on(exp, caplog):
    """The config.yaml of version 0.1: mode 2 and noise, no grid, no rotation. The words of the message resume it."""
    folder = exp({"quantizer": "rand", "quantizer_conf": {"mode": 2, "init": "norm", "estimator": "pqn"}})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for name in ("grid", "rotation"):
        del config["quantizer_conf"][name]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model, _ = tasks.find_task("asr").build_model_from_file(folder / "config.yaml", folder / "1epoch.pth")
    quantizer = next(iter(quantized_weights(model).values())).quantizer
    assert (quantizer.scale, quantizer.estimator, quantizer.grid) == (RandScale(mode=2, init="norm"), Noise(), Grid)
    assert "new defaults" not in caplog.text, "which the file spells out"
    with pytest.raises(OptionError) as error:
        exp({"quantizer": "rand"}, 2)
    assert "new defaults: estimator: ste (before: pqn), mode: 3 (before: 2), init: clip (before: norm)" in caplog.text
    assert "--quantizer_config rand_w4" in caplog.text
    caplog.clear()
    words = re.search("add (.*), or another", str(error.value))[1].split()
    exp({"quantizer": "rand", "quantizer_conf": dict(word.split("=") for word in words if "=" in word)}, 2)
    assert (folder / "2epoch.pth").exists() and "new defaults" not in caplog.text


def test_resuming_with_other_validations_goes_on(exp, caplog):
    exp(LSC)
    folder = exp(with_(LSC, eval_bits="[4]"), 2)
    assert "scales" not in caplog.text and (folder / "valid.loss.ave_2best.pth").exists()


def test_a_config_that_is_gone_or_damaged(exp, caplog):
    """The checkpoint says what its scales are; those of version 0.1 do not, and the training is refused."""
    folder = exp(LSC)
    (folder / "config.yaml").write_text("")
    with pytest.raises(OptionError, match="lsc_channel_w4 there, lsc_channel_w2 here"):
        exp(with_(LSC, bits=2), 2)
    assert "can't be told" in caplog.text
    exp(LSC, 2)
    (folder / "config.yaml").unlink()
    whole = torch.load(folder / "checkpoint.pth", weights_only=False)
    whole["model"] = {re.sub("__lsc_channel_w4(?=_q)", "", key): value for key, value in whole["model"].items()}
    torch.save(whole, folder / "checkpoint.pth")
    with pytest.raises(OptionError, match="do not say what they are"):
        exp(LSC, 3)


def test_resuming_a_training_of_version_01_believes_its_config(exp, caplog):
    """And its epochs are averaged with the new ones."""
    folder = exp(LSC)
    old = re.compile("__lsc_channel_w4(?=_quantizer_scale$)")
    for name in ("checkpoint.pth", "1epoch.pth"):
        whole = torch.load(folder / name, weights_only=False)
        state = {old.sub("", key): value for key, value in whole.get("model", whole).items()}
        torch.save({**whole, "model": state} if "model" in whole else state, folder / name)
    with pytest.raises(OptionError, match="bits is 2 here, 4 there"):
        exp(with_(LSC, bits=2), 2)
    exp(LSC, 2)
    assert "scales" not in caplog.text
    first, second, average = (
        torch.load(folder / name, weights_only=True)
        for name in ("1epoch.pth", "2epoch.pth", "valid.loss.ave_2best.pth")
    )
    assert first.keys() == second.keys() == average.keys() and all(old.search(key) for key in scales(first))
