"""What Whisper hears behind a recording: trailing_silence of the configuration, of espnet-rand, or none."""

import argparse
import math

import pytest
import torch
import yaml
from torch.nn.functional import pad

import espnet_rand

espnet_rand.register()
from espnet2.tasks.asr import ASRTask  # noqa: E402

from espnet_rand import OptionError  # noqa: E402
from espnet_rand.environment import TRAILING_SILENCE, seconds  # noqa: E402
from espnet_rand.toolkit import launcher  # noqa: E402
from espnet_rand.toolkit.recognition import Recognizer  # noqa: E402

from .tasks import write_config  # noqa: E402
from .tiny_whisper import RATE, TOKENS, noise, tiny, write  # noqa: E402, F401


def build(*args, **more):
    return ASRTask.build_model_from_file(write(*args, **more))[0]


def encode(model, speech, lengths):
    with torch.no_grad():
        encoded, encoded_lengths = model.encode(speech, lengths)
    return encoded, encoded_lengths.tolist()


def test_a_model_without_a_word_of_it_hears_30_seconds(tmp_path):
    model = build(tmp_path)
    encoded, lengths = encode(model, *noise(1.0))
    assert lengths == [1500] and encoded.size(1) == 1500
    padded = build(tmp_path, {"do_pad_trim": True})  # which pads by itself
    assert "_trailing_silence" not in vars(padded.encoder)
    assert torch.equal(encode(padded, *noise(1.0))[0], encoded)
    assert encode(model, torch.zeros(1, 0), torch.tensor([0]))[1] == [1500]
    speech, lengths = noise(31.0)
    assert encode(model, speech, lengths)[0].size(1) == 1500


def test_seconds_are_put_behind_each_recording_of_a_batch(tmp_path):
    model, plain = build(tmp_path, trailing_silence=3), build(tmp_path, trailing_silence=0)
    speech, lengths = noise(1.0, 2.0)
    encoded, found = encode(model, speech, lengths)
    expected, expected_lengths = encode(plain, pad(speech, (0, 3 * RATE)), lengths + 3 * RATE)
    assert found == expected_lengths == [200, 250] and torch.equal(encoded, expected)
    # silence that is there counts
    assert torch.equal(encode(model, pad(speech, (0, 2 * RATE)), lengths + 2 * RATE)[0], expected)
    assert encode(model, pad(speech, (0, 4 * RATE)), lengths + 4 * RATE)[1] == [250, 300]
    # no more than it hears
    assert encode(model, *noise(29.0))[1] == [1500]


def test_other_decoders_hear_what_they_are_given(tmp_path):
    path = write(tmp_path)
    config = {**yaml.safe_load(path.read_text()), "decoder": None, "model_conf": {"ctc_weight": 1.0}}
    path.write_text(yaml.safe_dump(config))
    assert encode(ASRTask.build_model_from_file(path)[0], *noise(1.0))[1] == [50]


def test_a_training_hears_what_it_is_given(tmp_path):
    config = yaml.safe_load(write(tmp_path, trailing_silence=3).read_text())
    model = ASRTask.build_model(argparse.Namespace(**config))
    assert encode(model, *noise(1.0))[1] == [200]
    args = argparse.Namespace(**{**config, "trailing_silence": None})
    assert encode(ASRTask.build_model(args), *noise(1.0))[1] == [50]
    assert "trailing_silence" not in vars(args)  # so that config.yaml stays ESPnet's own


@pytest.mark.parametrize("given, frames", [("0", 50), ("3", 200), ("full", 1500)])
def test_espnet_rand_has_the_last_word(given, frames, tmp_path, monkeypatch):
    monkeypatch.setenv(TRAILING_SILENCE, given)
    for conf in ({}, {"do_pad_trim": True}):
        assert encode(build(tmp_path, conf, trailing_silence=1), *noise(1.0))[1] == [frames]
    with pytest.raises(OptionError, match="for a training. Fix"):
        launcher.refuse_in_training()


def test_what_is_not_allowed(tmp_path, monkeypatch, capsys):
    for given in ("long", -1, "-1", "nan", True, [3], 10**400):
        with pytest.raises(OptionError, match="trailing_silence: .* a number of seconds or full"):
            seconds("trailing_silence", given)
    with pytest.raises(SystemExit):
        ASRTask.get_parser().parse_args(["--trailing_silence", "long"])
    assert "trailing_silence: 'long' is not allowed" in capsys.readouterr().err
    assert seconds("x", "full") == math.inf and seconds("x", "0.5") == 0.5
    task, made = write_config("asr", tmp_path / "conformer", trailing_silence=3)
    with pytest.raises(OptionError, match="does not hear by a Whisper encoder. Fix"):
        task.build_model_from_file(made / "config.yaml")
    task, made = write_config("asr", tmp_path / "another")
    task.build_model_from_file(made / "config.yaml")
    monkeypatch.setenv(TRAILING_SILENCE, "3")
    with pytest.raises(OptionError, match="does not hear by a Whisper encoder. Fix"):
        task.build_model_from_file(made / "config.yaml")


@pytest.mark.parametrize("given", ["0", "3", "full"])
def test_times_of_words_are_those_of_the_recording(given, tmp_path, monkeypatch):
    """A Whisper encoder with CTC: a frame is 20 ms, however much silence is behind."""
    from espnet2.bin.asr_inference import Speech2Text

    monkeypatch.setenv(TRAILING_SILENCE, given)
    path = write(tmp_path)
    config = yaml.safe_load(path.read_text())
    config["model_conf"]["ctc_weight"] = 0.3
    path.write_text(yaml.safe_dump(config))
    speech2text = Speech2Text(path, None, beam_size=1)
    samples = pad(noise(2.0)[0][0], (0, RATE)).numpy()  # zeros at its end count as silence

    def log_softmax(frames):
        said = torch.zeros(1, frames.size(1), len(TOKENS))
        said[0, :, 0] = 1
        said[0, 30, 5] = said[0, 35, TOKENS.index("<space>")] = said[0, 60, 7] = 2
        return said

    speech2text.asr_model.ctc.log_softmax = log_softmax
    words = Recognizer(speech2text, ctc_greedy=True)(samples).words
    assert [word.start for word in words] == pytest.approx([0.6, 1.2])
