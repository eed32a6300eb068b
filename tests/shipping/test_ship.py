"""`espnet-rand ship`: from a checkpoint to a folder that decodes by itself."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime
import pytest
import yaml

from espnet_rand.bin import pack_weights, ship
from espnet_rand.shipping.example import Decoded
from espnet_rand.shipping.recordings import prepare
from espnet_rand.shipping.report import agreement
from espnet_rand.shipping.steps import advice


@pytest.fixture
def said(monkeypatch):
    """Sets what every model says of each recording, in place of decoding."""
    texts = {}

    def decode(folder, files, title):
        return Decoded({key: texts[key] for key in files}, 1.0, 1.0, 10**6)

    monkeypatch.setattr("espnet_rand.shipping.steps.example.decode", decode)
    return lambda new: (texts.clear(), texts.update(new or {}))


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
    more = ["--train_config", exp / "config.yaml", "--min_agreement", "0"]  # the model says nothing
    report = _ship(packed, corpus, tmp_path / "a", *more, data="{0}/wav.scp")
    assert report["agreement"] == 100 and report["recordings"]["calibration"] == []
    assert report["figures"]["espnet"]["word_error_rate"] is None
    with pytest.raises(SystemExit, match="is quantized already. Fix"):
        _ship(exp / "valid.loss.best.pth", corpus, tmp_path / "b", "--quantizer", "absmax")


def test_onnx_runtime_says_the_same(experiments, corpus, tmp_path):
    model = experiments / "rand/valid.loss.best.pth"
    options = ("--num_check", "1", "--min_agreement", "0", "--longest", "20")
    _ship(model, corpus, tmp_path / "out", "--target", "onnx", *options)
    session = onnxruntime.InferenceSession(tmp_path / "out/model/model.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    frames = 20 * int(about["sample_rate"]) / int(about["hop_length"]) / int(about["subsampling"])
    assert int(about["longest_frames"]) == frames + 1
    assert {path.name for path in (tmp_path / "out/model").iterdir()} == {"model.onnx", "decoder.onnx", "tokens.txt"}


def test_agreement_is_that_of_words_without_case_and_punctuation():
    assert agreement({"a": "One, two three", "b": "four"}, {"a": "one two free", "b": "Four."}) == 75
    assert agreement({"a": "你好嗎 yes"}, {"a": "你 好嗎 no"}) == 75
    assert agreement({"a": ""}, {"a": "noise"}) == 0 and agreement({"a": ""}, {"a": ""}) == 100


def test_poor_agreement_ends_with_status_3_and_says_what_to_do(experiments, corpus, tmp_path, monkeypatch, capsys):
    heard = {}

    def decode(folder, files, title):
        heard[title] = {*files}
        return Decoded(dict.fromkeys(files, "a c" if title == "decoding, espnet" else "a b"), 1.0, None, 10**6)

    monkeypatch.setattr("espnet_rand.shipping.steps.example.decode", decode)
    with pytest.raises(SystemExit) as stopped:
        _ship(experiments / "float/valid.loss.best.pth", corpus, tmp_path / "out", data="{0}/wav.scp")
    assert stopped.value.code == 3
    # both models' seconds are of the same recordings, and those of the labels count for neither
    assert heard["decoding, float model"] == heard["decoding, espnet"]
    assert heard["decoding, labels"] and heard["decoding, labels"].isdisjoint(heard["decoding, espnet"])
    said = capsys.readouterr().out
    assert "bits: 8" in said and "--teacher" in said and "| - " in said  # the speed is not known
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


def test_other_files_in_the_folder_stay(experiments, corpus, tmp_path, monkeypatch):
    model = experiments / "float/valid.loss.best.pth"
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "report.json").write_text("{}")  # another program's
    with pytest.raises(SystemExit, match="holds other files: mine.txt, report.json. Fix"):
        _ship(model, corpus, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="is replaced, and holds .* Fix"):
        _ship(model, corpus, Path("."))
    with pytest.raises(SystemExit, match="is replaced, and holds .* Fix"):
        _ship(model, corpus, experiments)
    assert model.is_file() and (tmp_path / "mine.txt").read_text() == "mine"


def test_an_earlier_shipment_is_replaced_also_through_a_link(experiments, corpus, tmp_path, said):
    model = experiments / "float/valid.loss.best.pth"
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for _ in range(2):
        said(dict.fromkeys(("u0", "u1", "u2", "u3", "u4", "u5"), "a b"))
        _ship(model, corpus, tmp_path / "link")
    (tmp_path / "there/notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds other files: notes.txt. Fix"):
        _ship(model, corpus, tmp_path / "there")
    assert (tmp_path / "link").is_symlink() and sorted(os.listdir(tmp_path)) == ["link", "there"]
    with pytest.raises(SystemExit, match="is replaced, and holds .* Fix"):
        _ship(tmp_path / "there/model.safetensors", corpus, tmp_path / "there", "--target", "onnx")


def test_recordings_without_words_are_not_calibrated_on(experiments, corpus, tmp_path, said):
    model = experiments / "float/valid.loss.best.pth"
    (tmp_path / "text").write_text("u0 ab\nu1\nu2\nu3 ab\nu4\nu5\n")
    said(dict.fromkeys(("u0", "u2", "u4"), "a"))
    report = _ship(model, corpus, tmp_path / "out", data=f"{{0}}/wav.scp,{tmp_path}/text")
    assert report["recordings"]["calibration"] == ["u3"]
    said({"u0": "", "u1": "", "u2": "", "u3": "a b", "u4": "", "u5": ""})
    report = _ship(model, corpus, tmp_path / "out", "--min_agreement", "0", data="{0}/wav.scp")
    assert report["recordings"]["calibration"] == ["u3"]
    said(dict.fromkeys(("u0", "u1", "u2", "u3", "u4", "u5"), ""))
    with pytest.raises(SystemExit, match="has a word. Fix"):
        _ship(model, corpus, tmp_path / "out", data="{0}/wav.scp")
    assert (tmp_path / "out/report.json").is_file()


def test_no_words_are_no_agreement(experiments, corpus, tmp_path, said, capsys):
    said(dict.fromkeys(("u0", "u1", "u2", "u3", "u4", "u5"), ""))
    with pytest.raises(SystemExit) as stopped:
        _ship(experiments / "float/valid.loss.best.pth", corpus, tmp_path / "out")
    assert stopped.value.code == 3 and "Nothing was compared" in capsys.readouterr().out


def test_eval_bits_are_refused_before_the_work(experiments, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_RAND_EVAL_BITS", "2")
    with pytest.raises(SystemExit, match="--eval_bits: .* Fix"):
        _ship(experiments / "rand/valid.loss.best.pth", corpus, tmp_path / "out")


def test_a_signal_ends_the_decoding_and_leaves_nothing(experiments, corpus, tmp_path):
    (tmp_path / "tmp").mkdir()
    options = ["--data", corpus.root / "wav.scp", "--target", "espnet", "--output", tmp_path / "out"]
    command = [sys.executable, "-m", "espnet_rand.bin.ship", experiments / "float/valid.loss.best.pth", *options]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*map(str, command)], env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while not [*tmp_path.glob("tmp/espnet_rand.*/before/decode.py")] and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left in its group
    assert not [*tmp_path.glob("tmp/espnet_rand.*")] and sorted(os.listdir(tmp_path)) == ["out", "tmp"]


@pytest.mark.parametrize(
    "option, given", [("num_check", "0"), ("min_agreement", "nan"), ("min_agreement", "101"), ("task", "tts")]
)
def test_options_that_make_no_sense_are_refused(tmp_path, option, given, capsys):
    with pytest.raises(SystemExit):
        ship.main(["m.pth", "--target", "espnet", "--data", "d", "--output", str(tmp_path), f"--{option}", given])
    assert f"--{option}: " in capsys.readouterr().err


def test_what_the_runtime_cannot_hold_is_said_before_the_work(experiments, corpus, tmp_path):
    with pytest.raises(SystemExit, match="no Whisper model") as stopped:
        _ship(experiments / "float/valid.loss.best.pth", corpus, tmp_path / "out", "--target", "whisper_cpp")
    with pytest.raises(SystemExit, match="no tables of positions"):
        _ship(
            experiments / "float/valid.loss.best.pth", corpus, tmp_path / "out", "--target", "espnet", "--longest", "9"
        )
    assert "Fix" in str(stopped.value) and not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "quantizer, conf, target, reason",
    [
        ("rand", ["bits=3", "mode=2"], "espnet", "computed from the weights"),
        ("lsc", ["granularity=group", "group_size=7"], "onnx", "a scale for each 7 weights"),
    ],
)
def test_a_quantizer_that_does_not_fit_is_said_before_the_work(
    experiments, corpus, tmp_path, said, quantizer, conf, target, reason
):
    said(None)  # nothing may be decoded
    options = ["--quantizer", quantizer, *(part for one in conf for part in ("--quantizer_conf", one))]
    with pytest.raises(SystemExit, match=reason):
        model = experiments / "float/valid.loss.best.pth"
        _ship(model, corpus, tmp_path / "out", "--target", target, *options)
