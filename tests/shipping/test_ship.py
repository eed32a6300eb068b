"""`espnet-rand ship`: from a checkpoint to a folder that decodes by itself."""

import json
import math
import sys

import pytest
import yaml

from espnet_rand.bin import pack_weights, ship
from espnet_rand.shipping.example import Decoded
from espnet_rand.shipping.recordings import prepare
from espnet_rand.shipping.report import agreement
from espnet_rand.shipping.steps import advice


@pytest.fixture(scope="module")
def experiments(corpus, train, tmp_path_factory):
    """A float experiment, and one trained with RAND from it."""
    root = tmp_path_factory.mktemp("ship")
    train("--config", corpus.config, "--output_dir", root / "float")
    train(
        "--config", corpus.config, "--output_dir", root / "rand", "--quantizer", "rand", "--quantizer_conf", "bits=3",
        "--init_param", root / "float/valid.loss.best.pth",
    )  # fmt: skip
    return root


def _ship(model, corpus, output, *more, data="{0}/wav.scp,{0}/text"):
    options = [model, "--data", data.format(corpus.root), "--output", output, "--target", "espnet", *more]
    ship.main([str(option) for option in options])
    return json.loads((output / "report.json").read_text())


def test_a_float_model_is_calibrated_and_shipped(experiments, corpus, run, tmp_path, monkeypatch):
    output = tmp_path / "shipped"
    report = _ship(experiments / "float/valid.loss.best.pth", corpus, output, "--min_agreement", "0")
    parts = report["recordings"]
    assert not set(parts["calibration"]) & set(parts["check"]) and len(parts["check"]) == 3
    assert report["quantizer"]["quantizer"] == "rand" and report["errors"]
    assert report["figures"]["espnet"]["bytes"] < report["figures"]["float model"]["bytes"]
    assert report["figures"]["espnet"]["word_error_rate"] is not None
    # the folder needs nothing else, wherever it is
    monkeypatch.chdir(tmp_path)
    moved = output.rename(tmp_path / "elsewhere")
    for path in (moved / "config.yaml").read_text().split():
        assert not path.startswith(str(corpus.root))
    said = run("python", moved / "decode.py", corpus.root / "u0.wav").stdout
    assert said.startswith(f"{corpus.root}/u0.wav\t")


def test_a_model_that_is_quantized_is_shipped_as_it_is(experiments, corpus, tmp_path):
    exp = experiments / "rand"
    packed = tmp_path / "packed.safetensors"
    options = ["--train_config", exp / "config.yaml", "--model_file", exp / "valid.loss.best.pth", "--output", packed]
    pack_weights.main([str(option) for option in options])
    report = _ship(packed, corpus, tmp_path / "a", "--train_config", exp / "config.yaml", data="{0}/wav.scp")
    assert report["agreement"] == 100 and report["recordings"]["calibration"] == []
    assert report["figures"]["espnet"]["word_error_rate"] is None
    with pytest.raises(SystemExit, match="is quantized already. Fix"):
        _ship(exp / "valid.loss.best.pth", corpus, tmp_path / "b", "--quantizer", "absmax")


def test_onnx_runtime_says_the_same(experiments, corpus, tmp_path):
    model = experiments / "rand/valid.loss.best.pth"
    _ship(model, corpus, tmp_path / "out", "--target", "onnx", "--num_check", "1", "--min_agreement", "0")
    assert {path.name for path in (tmp_path / "out/model").iterdir()} == {"model.onnx", "decoder.onnx", "tokens.txt"}


def test_agreement_is_that_of_words_without_case_and_punctuation():
    assert agreement({"a": "One, two three", "b": "four"}, {"a": "one two free", "b": "Four."}) == 75
    assert agreement({"a": "你好嗎 yes"}, {"a": "你 好嗎 no"}) == 75
    assert agreement({"a": ""}, {"a": "noise"}) == 0 and agreement({"a": ""}, {"a": ""}) == 100


def test_poor_agreement_ends_with_status_3_and_says_what_to_do(experiments, corpus, tmp_path, monkeypatch, capsys):
    heard = {}

    def decode(folder, files, title):
        heard[title] = {*files}
        return Decoded(dict.fromkeys(files, "a c" if title == "decoding, espnet" else "a b"), 1.0, 1.0, 10**6)

    monkeypatch.setattr("espnet_rand.shipping.steps.example.decode", decode)
    with pytest.raises(SystemExit) as stopped:
        _ship(experiments / "float/valid.loss.best.pth", corpus, tmp_path / "out", data="{0}/wav.scp")
    assert stopped.value.code == 3
    # both models' seconds are of the same recordings, and those of the labels count for neither
    assert heard["decoding, float model"] == heard["decoding, espnet"]
    assert heard["decoding, labels"] and heard["decoding, labels"].isdisjoint(heard["decoding, espnet"])
    said = capsys.readouterr().out
    assert "bits: 8" in said and "--teacher" in said
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["token_type"] == "char"


@pytest.mark.parametrize(
    "target, conf, finer, more_bits",
    [
        ("onnx", {}, "granularity=group --quantizer_conf group_size=32", True),
        ("onnx", {"granularity": "group"}, "bits=8", True),
        ("onnx", {"granularity": "group", "bits": 8}, None, False),
        ("ctranslate2", {"bits": 7}, "bits=8", True),
        ("ctranslate2", {"bits": 8}, None, False),
    ],
)
def test_the_advice_is_what_the_runtime_holds(target, conf, finer, more_bits):
    *told, training = advice("model.pth", target, "asr", conf, ["encoder.a.weight"])
    wanted = ['overrides: {"encoder.a": {bits: 8}}'] * more_bits + [f"--quantizer_conf {finer}."] * (finer is not None)
    assert len(told) == len(wanted) and all(want in line for line, want in zip(told, wanted))
    assert "--teacher model.pth" in training


def test_all_recordings_are_checked_where_none_calibrate(corpus, tmp_path):
    lists = [corpus.root / "wav.scp", corpus.root / "text"]
    heard = prepare(lists, 16000, math.inf, 0, sys.maxsize, tmp_path)
    assert heard.check.keys() == heard.texts.keys() and not heard.calibration


def test_other_files_in_the_folder_stay(experiments, corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds other files. Fix"):
        _ship(experiments / "float/valid.loss.best.pth", corpus, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_the_runtime_cannot_hold_is_said_before_the_work(experiments, corpus, tmp_path):
    with pytest.raises(SystemExit, match="no Whisper model") as stopped:
        _ship(experiments / "float/valid.loss.best.pth", corpus, tmp_path / "out", "--target", "whisper_cpp")
    assert "Fix" in str(stopped.value) and not any((tmp_path / "out").iterdir())
