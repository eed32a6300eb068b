"""asr_inference_long, with a model that makes no mistakes: every joint, every odd recording, resuming, formats."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from rich.logging import RichHandler

import espnet_rand

espnet_rand.register()
from espnet2.bin.asr_inference import Speech2Text  # noqa: E402

from espnet_rand.bin import asr_inference_long  # noqa: E402
from espnet_rand.longform import LongForm, decode_list, list_progress  # noqa: E402
from espnet_rand.packing import pack_model, write_packed  # noqa: E402

from . import tones  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tones.train(tmp_path_factory.mktemp("tones") / "model")


@pytest.fixture(scope="module")
def tune():
    """Names of tones, and a recording of them, 18 s."""
    rng = np.random.default_rng(1)
    names = tones.names(43, rng)
    return " ".join(names), tones.melody(names, rng)[0]


def decode(model, data, output, *options):
    """Run the command; returns the first line of its error, or nothing."""
    files = ["--asr_train_config", model[0], "--asr_model_file", model[1], "--output_dir", output]
    search = ["--ctc_weight", "1.0", "--beam_size", "1", "--log_level", "ERROR", "--window", "5", "--overlap", "2"]
    given = ["--data_path_and_name_and_type", f"{data},speech,sound"]
    try:
        asr_inference_long.main([str(x) for x in [*files, *search, *given, *options]])
    except SystemExit as e:
        return str(e.code)


def texts(output):
    lines = (output / "1best_recog/text").read_text().splitlines()
    return {key: text for key, _, text in (line.partition(" ") for line in lines)}


def report(output):
    return {line["key"]: line for line in map(json.loads, (output / "report.jsonl").read_text().splitlines())}


def test_a_joint_anywhere_in_a_word(model, tune):
    text, samples = tune
    speech2text = Speech2Text(*model, ctc_weight=1.0, beam_size=1)
    decode = LongForm(speech2text, window=5, overlap=2)
    whole = LongForm(speech2text, mode="whole")(samples)
    assert whole.text == text
    for shift in range(0, 8000, 1600):  # a word and a pause last half a second at most
        moved = np.concatenate([0.01 * np.ones(shift, np.float32), samples])
        found = decode(moved)
        assert found.text == text, shift
        starts = np.array([[a.start, b.start] for a, b in zip(found.words, whole.words)])
        assert np.abs(starts[:, 0] - starts[:, 1] - shift / 16000).max() < 0.1


def test_greedy_decoding_with_ctc_hears_the_same(model, tune, tmp_path):
    text, samples = tune
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    assert decode(model, tmp_path / "wav.scp", tmp_path / "search") is None
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Speech2Text, "__call__", lambda self, speech: asked.append(speech))
        assert decode(model, tmp_path / "wav.scp", tmp_path / "greedy", "--ctc_greedy", "true") is None
    assert not asked and texts(tmp_path / "greedy") == texts(tmp_path / "search") == {"a": text}
    ctm = [(tmp_path / name / "1best_recog/ctm").read_text() for name in ("greedy", "search")]
    assert ctm[0] == ctm[1]
    # other options than those of what is finished
    assert "ctc_greedy" in decode(model, tmp_path / "wav.scp", tmp_path / "greedy")


def test_odd_recordings(model, tune, tmp_path):
    text, samples = tune
    stereo48 = np.repeat(samples, 3)[:, None] * [1.0, 0.5]
    write = soundfile.write
    write(tmp_path / "good.flac", samples, 16000)
    write(tmp_path / "stereo48.wav", stereo48, 48000)
    write(tmp_path / "low8.wav", samples[::2], 8000)
    write(tmp_path / "silent.wav", np.zeros(100000), 16000)
    write(tmp_path / "short.wav", samples[:100], 16000)
    write(tmp_path / "empty.wav", samples[:0], 16000)
    write(tmp_path / "nan.wav", np.where(np.arange(len(samples)) == 200000, np.nan, samples), 16000, subtype="FLOAT")
    (tmp_path / "zero.wav").touch()
    (tmp_path / "text.wav").write_text("no recording")
    names = ["zero.wav", "good.flac", "text.wav", "stereo48.wav", "low8.wav", "silent.wav", "short.wav", "empty.wav"]
    entries = [f"{name.partition('.')[0]}/a {tmp_path}/{name}" for name in [*names, "nan.wav", "missing.wav"]]
    entries.append(f"{'好' * 60} {tmp_path}/short.wav")
    (tmp_path / "wav.scp").write_text("\n".join([*entries, f"command/a touch {tmp_path}/ran |"]) + "\n")
    output = tmp_path / "out"
    error = decode(model, tmp_path / "wav.scp", output)
    assert error.endswith(f"6 recordings were refused: see {output}/report.jsonl")
    said = {key.removesuffix("/a"): line for key, line in report(output).items()}
    refused = {key: line["reason"] for key, line in said.items() if not line["decoded"]}
    for key, reason in [("zero", "not to be read"), ("text", "not to be read"), ("empty", "it is empty")]:
        assert reason in refused.pop(key)
    for key, reason in [("nan", "no numbers"), ("missing", "no such file"), ("command", "kaldi_ark")]:
        assert reason in refused.pop(key)
    assert not refused and not (tmp_path / "ran").exists()
    assert said["stereo48"]["notes"] == ["converted from 48000 to 16000 Hz", "2 channels, mixed into one"]
    assert said["low8"]["notes"] == ["converted from 8000 to 16000 Hz"]
    assert said["silent"]["notes"] == ["silent (2 of 2 pieces)"]
    assert said["short"]["notes"] == ["too short (1 of 1 pieces)"]
    assert texts(output) == {
        "good/a": text, "stereo48/a": text, "low8/a": text, "silent/a": "", "short/a": "", "好" * 60: "",
    }  # fmt: skip


def test_formats_agree_and_finished_windows_are_kept(model, tune, tmp_path, monkeypatch):
    text, samples = tune
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\nb {tmp_path}/b.wav\n")
    (tmp_path / "keys").write_text("a\n")
    output = tmp_path / "out"
    assert decode(model, tmp_path / "wav.scp", output, "--key_file", tmp_path / "keys") is None
    ctm = [line.split() for line in (output / "1best_recog/ctm").read_text().splitlines()]
    assert " ".join(line[4] for line in ctm) == text == texts(output)["a"]
    content = json.loads((output / "json/a.json").read_text())
    assert content["text"] == text and content["seconds"] == pytest.approx(len(samples) / 16000)
    for kind in ("srt", "vtt"):
        lines = (output / kind / f"a.{kind}").read_text().splitlines()
        cues = [line for line in lines if line.startswith(("do", "re", "mi", "fa"))]
        assert " ".join(cues) == text and len(cues) > 2
    # once more, with a window lost: only this one is decoded
    journal = output / "windows/a.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    calls = []
    hear = LongForm._hear
    monkeypatch.setattr(LongForm, "_hear", lambda *args: calls.append(args) or hear(*args))
    assert decode(model, tmp_path / "wav.scp", output, "--key_file", tmp_path / "keys") is None
    assert len(calls) == 1 and texts(output)["a"] == text
    # with another beam it is not the same decoding, and what is there stays
    files = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    error = decode(model, tmp_path / "wav.scp", output, "--key_file", tmp_path / "keys", "--beam_size", "3")
    assert error.startswith("asr_inference_long: error: ") and "other beam_size" in error and "\n" not in error
    assert files == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_where_another_run_is_at_work_nothing_is_done(model, tune, tmp_path):
    text, samples = tune
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    (tmp_path / "wav.scp").write_bytes(f"\ufeffa {tmp_path}/a.wav\r\n".encode())
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbfa\r\n")
    with decode_list.locked(tmp_path / "out"):
        error = decode(model, tmp_path / "wav.scp", tmp_path / "out", "--key_file", tmp_path / "keys")
        holder = f"process {os.getpid()} on .*, since .*,"
        assert re.fullmatch(f"asr_inference_long: error: {tmp_path}/out: {holder} is at work there. Fix: .*", error)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.lock"]
    assert decode(model, tmp_path / "wav.scp", tmp_path / "out", "--key_file", tmp_path / "keys") is None
    assert texts(tmp_path / "out") == {"a": text}


def test_several_lists(model, tune, tmp_path):
    lists = []
    for name in ("one", "two", "more/two"):
        (tmp_path / name).mkdir(parents=True)
        soundfile.write(tmp_path / f"{name}.wav", tune[1][: 32000 * (1 + len(lists))], 16000)
        (tmp_path / name / "wav.scp").write_text(f"a {tmp_path}/{name}.wav\n")
        lists += ["--data_path_and_name_and_type", f"{tmp_path}/{name}/wav.scp,speech,sound"]
    assert "folders of the same name" in decode(model, tmp_path / "two/wav.scp", tmp_path / "out", *lists[4:])
    given = ["--key_file", tmp_path / "two/wav.scp", *lists[2:4]]
    assert "it is for one list" in decode(model, tmp_path / "one/wav.scp", tmp_path / "out", *given)
    (tmp_path / "one.wav").rename(tmp_path / "away.wav")
    error = decode(model, tmp_path / "one/wav.scp", tmp_path / "out", *lists[2:4])
    assert error.endswith(f"1 recordings were refused: see {tmp_path}/out/one/report.jsonl")
    assert texts(tmp_path / "out/one") == {} and tune[0].startswith(texts(tmp_path / "out/two")["a"])


def test_a_page_of_each_list_and_what_is_refused_before_work(model, tune, tmp_path):
    lists = []
    for name, first in (("one", 0), ("two", 60000)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / f"{name}.wav", tune[1][first : first + 100000], 16000)
        (tmp_path / name / "wav.scp").write_text(f"a {tmp_path}/{name}.wav\n")
        lists += ["--data_path_and_name_and_type", f"{tmp_path}/{name}/wav.scp,speech,sound"]
    data, output = tmp_path / "one/wav.scp", tmp_path / "out"
    assert decode(model, data, tmp_path / "other", *lists[2:]) is None
    path = tmp_path / "other/two/json/a.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asr_inference_long, "_hearing", lambda *_: 1 / 0)
        assert "Fix: add --html" in decode(model, data, output, *lists[2:], "--compare", tmp_path / "other")
        error = decode(model, data, output, *lists[2:], "--html", "--compare", tmp_path / "others")
        assert f"{tmp_path}/others/one/report.jsonl: not to be read: No such file" in error and "\n" not in error
        error = decode(model, data, tmp_path / "other", *lists[2:], "--html", "--compare", tmp_path / "other")
        assert "other/one is this run's own. Fix: name" in error
        error = decode(model, data, output, *lists[2:], "--html", "--compare", swapped(tmp_path / "other", "one"))
        assert "swapped/one has none of these recordings. Fix: name" in error
        path.write_text(changed := path.read_text().replace('"text": "do"', '"text": "<du>"'))
        path.write_text("{")
        error = decode(model, data, output, *lists[2:], "--html", "--compare", tmp_path / "other")
        assert "other/two/json/a.json: damaged" in error and "\n" not in error
    path.write_text(changed)
    assert decode(model, data, output, *lists[2:], "--html", "--compare", tmp_path / "other") is None
    one, two = ((output / name / "transcripts.html").read_text() for name in ("one", "two"))
    assert "0 of " in one and "<del" not in one.partition("</h2>")[2] and 'src="../../one.wav"' in one
    assert two.count(">&lt;du&gt;</del>") == len(re.findall(">do</ins>", two)) > 1
    # the same command without a comparison decodes nothing anew
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LongForm, "_hear", lambda *_: 1 / 0)
        assert decode(model, data, output, *lists[2:], "--html") is None
    assert "<del" not in (output / "two/transcripts.html").read_text()
    # a page that cannot be written keeps no list from its own
    (output / "one/transcripts.html").unlink()
    (output / "one/transcripts.html").mkdir()
    (output / "two/transcripts.html").unlink()
    assert "one/transcripts.html: not to be written: Is a directory. Fix: " in decode(
        model, data, output, *lists[2:], "--html"
    )
    assert (output / "two/transcripts.html").is_file()


def swapped(directory, name):
    """A directory whose list `name` has other recordings."""
    made = directory.parent / "swapped"
    shutil.copytree(directory, made)
    report = made / name / "report.jsonl"
    report.write_text(report.read_text().replace('"key": "a"', '"key": "z"'))
    return made


def test_at_other_bits_it_is_another_decoding(model, tune, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tune[1][:32000], 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    config = yaml.safe_load(Path(model[0]).read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "quantizer": "absmax"}))
    quantized = (tmp_path / "config.yaml", model[1])

    def run(bits, output="out", model=quantized):
        monkeypatch.setenv("ESPNET_RAND_EVAL_BITS", str(bits))
        return decode(model, tmp_path / "wav.scp", tmp_path / output)

    assert "is not quantized" in run(8, model=model)
    assert run(8) is run(8) is None
    assert "was begun with other eval_bits" in run(7)
    plan = tmp_path / "plan.yaml"
    plan.write_text("'*': 8\n")
    assert run(plan, "planned") is None
    plan.write_text("'*': 8\nctc: 7\n")
    assert "was begun with other eval_bits" in run(plan, "planned")
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    assert "was begun with other packed_backend" in run(8)
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "none")
    assert "ESPNET_RAND_PACKED_BACKEND: 'none' is not allowed" in run(8)


def test_several_processes_have_the_quantizers_and_the_bits_of_this_run(model, tune, tmp_path, monkeypatch):
    for name, start in (("a", 0), ("b", 40000), ("c", 90000)):
        soundfile.write(tmp_path / f"{name}.wav", tune[1][start : start + 100000], 16000)
    (tmp_path / "wav.scp").write_text("".join(f"{name} {tmp_path}/{name}.wav\n" for name in "abc"))
    config = yaml.safe_load(Path(model[0]).read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "quantizer": "absmax"}))

    def run(bits, processes):
        monkeypatch.setenv("ESPNET_RAND_EVAL_BITS", str(bits))
        output = tmp_path / f"{bits}_{processes}"
        assert decode((tmp_path / "config.yaml", model[1]), tmp_path / "wav.scp", output, "--nj", processes) is None
        return (output / "1best_recog/ctm").read_text()

    eight, two = run(8, 1), run(2, 1)
    assert eight != two
    assert run(8, 3) == eight and run(2, 2) == two


def test_whole_is_the_same_whatever_the_windows_of_other_decodings(model, tune, tmp_path):
    soundfile.write(tmp_path / "a.wav", tune[1][:64000], 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    data, output = tmp_path / "wav.scp", tmp_path / "out"
    assert decode(model, data, output, "--mode", "whole") is None
    assert decode(model, data, output, "--mode", "whole", "--window", "9", "--overlap", "1") is None
    assert "other mode, overlap, window" in decode(model, data, output)
    assert decode(model, data, tmp_path / "windows") is None
    assert "other overlap, window" in decode(model, data, tmp_path / "windows", "--window", "9", "--overlap", "1")


def test_what_a_model_cannot_do_is_refused_and_the_others_go_on(model, tune, tmp_path, monkeypatch):
    text, samples = tune
    for name, content in (("a", samples[:80000]), ("b", samples)):
        soundfile.write(tmp_path / f"{name}.wav", content, 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\nb {tmp_path}/b.wav\n")
    hear = LongForm._hear

    def fails(self, recording, piece):
        if recording.length == 80000:
            raise IndexError("list index out of range")
        return hear(self, recording, piece)

    monkeypatch.setattr(LongForm, "_hear", fails)
    assert "1 recordings were refused" in decode(model, tmp_path / "wav.scp", tmp_path / "out")
    assert report(tmp_path / "out")["a"]["reason"] == "list index out of range"
    assert texts(tmp_path / "out") == {"b": text}


def test_progress_is_shown(model, tune, tmp_path, monkeypatch, caplog, capsys):
    soundfile.write(tmp_path / "a.wav", tune[1][:160000], 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(list_progress, "_EVERY", 0)
    assert decode(model, tmp_path / "wav.scp", tmp_path / "out") is None
    steps = [line for line in caplog.messages if line.startswith("0 of 1 recordings, ")]
    assert [line.split(", ")[1] for line in steps] == [f"{done} of 10 s" for done in (0, 5, 8, 10)]
    assert all(line.endswith(", about 1 min left") for line in steps[1:3])
    caplog.clear()
    # in a terminal: a bar, and the lines above it
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(logging.root, "handlers", [])
    assert decode(model, tmp_path / "wav.scp", tmp_path / "out2", "--log_level", "INFO") is None
    (handler,) = logging.root.handlers
    shown = capsys.readouterr().err
    assert isinstance(handler, RichHandler) and "1 of 1 recordings" in shown and "took" in shown


def test_a_packed_model_and_a_command_as_recording(model, tune, tmp_path):
    text, samples = tune
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    (tmp_path / "wav.scp").write_text(f"a cat {tmp_path}/a.wav |\n")
    speech2text = Speech2Text(*model, ctc_weight=1.0)
    espnet_rand.quantize(speech2text.asr_model, espnet_rand.QuantizerConfig("absmax", bits=8))
    write_packed(tmp_path / "packed.safetensors", pack_model(speech2text.asr_model))
    given = ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,kaldi_ark"]
    packed = (model[0], tmp_path / "packed.safetensors")
    files = ["--asr_train_config", packed[0], "--asr_model_file", packed[1], "--output_dir", tmp_path / "out"]
    asr_inference_long.main(
        [str(x) for x in [*files, *given, "--ctc_weight", "1", "--beam_size", "1", "--mode", "whole"]]
    )
    assert texts(tmp_path / "out")["a"] == text


@pytest.mark.parametrize(
    "scp, options, reason",
    [
        ("a\n", [], "a has no recording"),
        ("a x.wav\na y.wav\n", [], "a comes twice"),
        ("", [], "no recordings"),
        ("a x.wav\n", ["--overlap", "4"], "half a window"),
        ("a x.wav\n", ["--nj", "0"], "--nj: 0 is not allowed"),
        ("a x.wav\nb x.wav\n", ["--nj", "2", "--overlap", "4"], "half a window"),
        ("a x.wav\n", ["--multi_asr", "true"], "--multi_asr"),
        ("a x.wav\n", ["--ctc_greedy", "true", "--lm_file", "lm.pth"], "--lm_file is of the search"),
        ("a x.wav\n", ["--ctc_greedy", "true", "--ngram_file", "x.arpa"], "--ngram_file is of the search"),
        ("a x.wav\n", ["--asr_model_file", "not_there.pth"], "not_there.pth"),
    ],
)
def test_wrong_options_end_it_with_a_line(model, tmp_path, scp, options, reason):
    (tmp_path / "wav.scp").write_text(scp)
    error = decode(model, tmp_path / "wav.scp", tmp_path / "out", *options)
    assert error.startswith("asr_inference_long: error: ") and reason in error and "\n" not in error


def test_a_model_of_another_task_is_refused(model, tmp_path):
    (tmp_path / "wav.scp").write_text("a x.wav\n")
    options = ["--task", "asr_transducer", "--asr_train_config", model[0], "--output_dir", tmp_path / "out"]
    options += ["--asr_model_file", model[1], "--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"]
    with pytest.raises(SystemExit, match="error: --task asr_transducer cannot build the model of .* Fix: --task"):
        asr_inference_long.main([*map(str, options)])


def test_model_files_that_are_no_good_are_said_in_a_line(model, tmp_path):
    (tmp_path / "wav.scp").write_text("a x.wav\n")
    (tmp_path / "cut.pth").write_bytes(Path(model[1]).read_bytes()[:1000])
    (tmp_path / "broken.yaml").write_text("a: [")
    state = torch.load(model[1], weights_only=True)
    torch.save({key: torch.zeros(3) for key in state}, tmp_path / "other.pth")
    for config, weights, reason in (
        (model[0], tmp_path / "cut.pth", "cut.pth: no checkpoint of tensors alone, or damaged"),
        (model[0], tmp_path / "other.pth", "cannot build the model of .*: size mismatch for "),
        (tmp_path / "broken.yaml", model[1], "broken.yaml is not YAML"),
    ):
        error = decode((config, weights), tmp_path / "wav.scp", tmp_path / "out")
        assert re.match(f"asr_inference_long: error: .*{reason}", error) and "\n" not in error
    data = ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound", "--output_dir", str(tmp_path)]
    with pytest.raises(SystemExit, match="no model is given. Fix: --asr_train_config"):
        asr_inference_long.main(data)
    if not torch.cuda.is_available():
        assert "torch finds no GPU" in decode(model, tmp_path / "wav.scp", tmp_path / "out", "--ngpu", "1")


@pytest.mark.parametrize("task", ["asr", "asr_transducer"])
def test_help(task, capsys):
    with pytest.raises(SystemExit) as error:
        asr_inference_long.main(["--task", task, "--help"])
    shown = capsys.readouterr().out
    assert error.value.code == 0 and "--overlap" in shown and "--asr_train_config" in shown
