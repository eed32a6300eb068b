"""Recordings as they come."""

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from espnet_rand.kaldi import read_lines
from espnet_rand.longform.audio import AudioError, Recording, opened


@pytest.fixture
def noise():
    return (0.1 * np.random.default_rng(0).standard_normal(48000)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_a_stretch_is_a_part_of_the_whole_converted(tmp_path, noise, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise, rate, subtype="FLOAT")
    whole = noise if rate == 16000 else resample(torch.from_numpy(noise), rate, 16000).numpy()
    with Recording(path, 16000) as recording:
        assert recording.length == len(whole)
        assert recording.notes == ([] if rate == 16000 else [f"converted from {rate} to 16000 Hz"])
        stretches = [(0, 1000), (777, 5003), (recording.length - 3001, recording.length), (0, recording.length)]
        for start, stop in stretches:
            np.testing.assert_allclose(recording.read(start, stop), whole[start:stop], atol=1e-6)


def test_channels_are_mixed(tmp_path, noise):
    both = np.stack([noise[:24000], noise[24000:]], axis=1)
    soundfile.write(tmp_path / "a.flac", both, 16000)
    with Recording(tmp_path / "a.flac", 16000) as recording:
        np.testing.assert_allclose(recording.read(100, 900), both[100:900].mean(axis=1), atol=1e-4)
        assert recording.notes == ["2 channels, mixed into one"]


def refused(path, rate=16000):
    with pytest.raises(AudioError) as error:
        Recording(path, rate)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, noise):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no recording" * 100)
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    for name in ("empty.wav", "text.wav", "a.raw"):
        assert "not to be read" in refused(tmp_path / name)
    assert "no such file" in refused(tmp_path / "not_there.wav")
    assert "no such file" in refused(tmp_path)
    soundfile.write(tmp_path / "none.wav", noise[:0], 16000)
    assert "empty" in refused(tmp_path / "none.wav")
    soundfile.write(tmp_path / "odd.wav", noise, 44101)
    assert "too little in common" in refused(tmp_path / "odd.wav")
    soundfile.write(tmp_path / "whole.flac", noise, 16000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:30000])
    assert refused(tmp_path / "cut.flac")


def test_damage_is_noticed_where_it_is(tmp_path, noise):
    soundfile.write(tmp_path / "nan.wav", np.where(np.arange(48000) == 40000, np.nan, noise), 16000, subtype="FLOAT")
    with Recording(tmp_path / "nan.wav", 16000) as recording:
        recording.read(0, 39999)
        with pytest.raises(AudioError, match="no numbers after 2.0 s"):
            recording.read(32000, 48000)
    with pytest.raises(AudioError, match=r"\(2, 100\)"):
        Recording(np.zeros((2, 100)), 16000)
    with pytest.raises(AudioError, match="int16"):
        Recording(np.zeros(100, np.int16), 16000)


def test_a_header_that_lies_costs_no_memory(tmp_path, noise):
    path = tmp_path / "a.flac"
    soundfile.write(path, noise, 16000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # STREAMINFO: 36 bits of length
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert refused(path)


def test_a_recording_that_was_cut_off_is_noted(tmp_path, noise):
    soundfile.write(tmp_path / "a.wav", noise, 16000, subtype="FLOAT")
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:100000])
    with Recording(tmp_path / "a.wav", 16000) as recording:
        assert recording.notes == ["shorter than its header says"]
        np.testing.assert_array_equal(recording.read(0, 20000), noise[:20000])
    (tmp_path / "a.wav").write_bytes(whole + bytes(100))  # what follows is no sound
    with Recording(tmp_path / "a.wav", 16000) as recording:
        assert recording.notes == []


def test_commands_run_only_where_they_are_wanted(tmp_path, noise, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise, 16000, subtype="FLOAT")
    entry = f"cat {tmp_path}/a.wav |"
    with opened(entry, True, 16000) as recording:
        np.testing.assert_array_equal(recording.read(5, 100), noise[5:100])
        assert recording.identity()["name"] == entry
    marked = tmp_path / "ran"
    for entry, pipes, reason in (
        (f"touch {marked} |", False, "a command, which is not allowed"),
        ("false |", True, "status 1"),
        ("true |", True, "not to be read"),
    ):
        with pytest.raises(AudioError, match=reason), opened(entry, pipes, 16000):
            pass
    # to kaldiio a path with such a name is a command
    soundfile.write(tmp_path / "touch ran|", noise, 16000, format="WAV")
    monkeypatch.chdir(tmp_path)
    with opened("touch ran|:0", False, 16000) as recording:
        np.testing.assert_allclose(recording.read(5, 100), noise[5:100], atol=1e-4)
    assert not marked.exists()


@pytest.mark.parametrize("kind", [None, "soundfile"])
def test_recordings_in_archives(tmp_path, noise, kind):
    samples = np.round(noise * 2**15).astype(np.int16)
    keys = {"a": samples[:9000], "b": samples}
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/all.ark,{tmp_path}/wav.scp", write_function=kind) as writer:
        for key, part in keys.items():
            writer[key] = (16000, part)
    for key, entry in read_lines(tmp_path / "wav.scp").items():
        with opened(entry, False) as recording:
            assert (recording.rate, recording.length) == (16000, len(keys[key]))
            np.testing.assert_array_equal(recording.read(10, 8000) * 2**15, keys[key][10:8000])


def test_archives_without_sound_are_refused_and_not_unpickled(tmp_path):
    marked = tmp_path / "ran"
    harm = b"cposix\nsystem\n(S'touch " + bytes(marked) + b"'\ntR."
    (tmp_path / "all.ark").write_bytes(b"a PKL" + harm)
    for entry, reason in (
        ("all.ark:2", "no sound there: neither"),
        ("all.ark:999", "no sound"),
        ("b.ark:2", "no such file"),
    ):
        with pytest.raises(AudioError, match=reason), opened(f"{tmp_path}/{entry}", True, 16000):
            pass
    assert not marked.exists()
