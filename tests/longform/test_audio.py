"""Recordings as they come."""

import io
import struct
import sys

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from espnet_rand.kaldi import read_lines
from espnet_rand.longform import files, pyav
from espnet_rand.longform import wav as wav_files
from espnet_rand.longform.audio import AudioError, Recording, open_entry


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


RATE = 16000
SHORTER, LONGER = "shorter than its header says", "longer than its header says"
CUT = "cut off, or never finished: it has no end mark"


def chirp(seconds, rate=RATE):
    """No stretch of it is like another, and codecs keep it."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 + 100 * time) * time)).astype(np.float32)


SOUND = chirp(6)
HISS = 0.1 * np.random.default_rng(0).standard_normal(len(SOUND)).astype(np.float32)


def encoded(kind, samples=SOUND, rate=RATE, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


def muxed(path, codec, **options):
    """What FFmpeg writes and libsndfile cannot."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(SOUND[None], "fltp", "mono")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(stream.codec_context.format, "mono", RATE)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path.read_bytes()


def wav(size, sound=SOUND, more=b""):
    """WAV with a `size` in its header, in bytes."""
    content = encoded("WAV", sound, subtype="PCM_16")
    return content[:40] + struct.pack("<I", size) + content[44:] + more


def flac(length):
    """FLAC with a `length` in its header, in frames."""
    content = bytearray(encoded("FLAC"))
    bits = int.from_bytes(content[18:26], "big")
    content[18:26] = (bits >> 36 << 36 | length).to_bytes(8, "big")
    return bytes(content)


def mp3():
    """MP3 of sound whose second half wants more bytes, so that its begin does not tell its length; and bare of Xing."""
    half = np.arange(len(SOUND)) > len(SOUND) / 2
    content = encoded("MP3", SOUND + half * HISS, bitrate_mode="VARIABLE", compression_level=0.5)
    assert b"Xing" in content[:100]
    return content, content[content.index(content[:2], 2) :]


def pages(content):
    """Where the pages of Ogg are."""
    return [i for i in range(len(content)) if content.startswith(b"OggS", i)]


def heard(path, content, seconds, notes):
    """The samples of a file of this content; its length and notes are as they should be."""
    path.write_bytes(content)
    with Recording(path, RATE) as recording:
        assert recording.notes == notes
        assert recording.seconds == pytest.approx(seconds, abs=0.1)
        return recording.read(0, recording.length)


def is_at(samples, at, sound=SOUND, start=0.0, delay=0):
    """Whether a second of the sound, from `start` in it, is heard at a time, both in seconds; `delay` in samples."""
    part = sound[round(start * RATE) :][: RATE - 1]
    other = samples[round(at * RATE) + delay :][: len(part)]
    return np.corrcoef(part[: len(other)], other)[0, 1] > 0.8


def test_what_is_right_is_read_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "decode", None)
    monkeypatch.setattr(wav_files.Wave, "open", None)
    both = np.stack([SOUND, SOUND], axis=1)
    files_ = {"both.wav": encoded("WAVEX", both), "both.flac": encoded("FLAC", both), "vbr.mp3": mp3()[0]}
    files_ |= {f"a.{kind}": encoded(kind) for kind in ("wav", "rf64", "w64", "aiff", "flac", "ogg", "mp3")}
    files_ |= {f"{name}.wav": encoded("WAV", subtype=name) for name in ("FLOAT", "PCM_U8", "ULAW", "IMA_ADPCM")}
    files_ |= {"a.opus": encoded("OGG", subtype="OPUS"), "tag.flac": encoded("FLAC") + b"TAG" + bytes(125)}
    chunk = b"LIST" + struct.pack("<I", 5) + b"INFO\0"
    files_ |= {"list.wav": wav(192000, more=chunk + b"\0"), "no_pad.wav": wav(192000, more=chunk + b"id3 " + bytes(4))}
    for name, content in files_.items():
        channels = ["2 channels, mixed into one"] if name.startswith("both") else []
        assert is_at(heard(tmp_path / name, content, 6, channels), 5, start=5), name


def test_wav_whose_size_is_wrong_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.wav"
    tail = b"LIST" + struct.pack("<I", 4) + b"INFO"
    samples = np.round(SOUND * 2**15) / 2**15
    for content, notes in (
        (wav(0), []),
        (wav(0xFFFFFFFF), []),
        (wav(0x7FFFF000), []),
        (wav(100000), [LONGER]),
        (wav(100001), [LONGER]),
        (wav(192000, more=tail), []),
        (wav(250000), [SHORTER]),
        (encoded("RF64")[:-8], []),
    ):
        np.testing.assert_allclose(heard(path, content, 6, notes)[:95000], samples[:95000], atol=2**-15)
    rf64 = encoded("RF64")
    heard(path, rf64[:100000], 3.1, [SHORTER])
    for second in (wav(192000), wav(0)):
        both = heard(path, wav(192000, more=tail) + second, 12, ["2 recordings in one file, one after the other"])
        np.testing.assert_array_equal(both[:96000], both[96000:])
    other = encoded("WAV", SOUND[:8000], 8000)
    note = f"what follows, {len(other) - 44} bytes, is of another rate or kind, and left out"
    heard(path, wav(192000) + other, 6, [note])
    gsm = encoded("WAV", subtype="GSM610")  # libsndfile does not seek in it
    assert is_at(heard(path, gsm, 6, []), 5, start=5)
    ima = bytearray(encoded("WAV", subtype="IMA_ADPCM"))
    at = ima.index(b"data") + 4
    left = len(ima) - at - 4 - 20480
    ima[at : at + 4] = struct.pack("<I", 20480)
    heard(path, ima, 2.52, [f"{left} bytes of it are left out: by its header they are no sound"])
    with pytest.raises(AudioError, match="it is empty"):
        heard(path, wav(0, SOUND[:0], tail), 0, [])


def test_wav_beyond_4_gb(tmp_path):
    path, size = tmp_path / "a.wav", 2**32 + 2 * len(SOUND)
    with path.open("wb") as file:  # most of it is no disk's
        file.write(wav(size % 2**32))
        file.seek(44 + size - 2 * len(SOUND))
        file.write(wav(0)[44:])
    for tail in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        with path.open("ab") as file:
            file.write(tail)
        with Recording(path, RATE) as recording:
            assert recording.length == size // 2 and recording.notes == [LONGER]
            last = recording.read(recording.length - len(SOUND), recording.length)
            np.testing.assert_array_equal(last, recording.read(0, len(SOUND)))


def test_flac_whose_length_is_wrong_is_read_to_its_end(tmp_path):
    pytest.importorskip("av")
    path, whole = tmp_path / "a.flac", flac(96000)
    for length, notes in ((0, []), (50000, [LONGER]), (200000, [SHORTER]), (2**36 - 1, [SHORTER])):
        samples = heard(path, flac(length), 6, notes)
        np.testing.assert_allclose(samples, SOUND, atol=2**-15)
        again = Recording(path, RATE)
        assert again.identity()["length"] == len(samples)
        np.testing.assert_array_equal(again.read(70000, 90001), samples[70000:90001])
        again.close()
    with open_entry(f"cat {path} |", True, RATE) as recording:
        np.testing.assert_array_equal(recording.read(0, recording.length), samples)
    both = heard(path, whole + whole, 12, [LONGER])
    np.testing.assert_array_equal(both[:96000], both[96000:])
    other = chirp(2, 44100)
    both = heard(path, whole + encoded("FLAC", np.stack([other, other], axis=1), 44100), 8, [LONGER])
    assert is_at(both, 6) and is_at(both, 7, start=1)
    cut = heard(path, whole[: len(whole) // 2], 2.8, [SHORTER, "0.3 s of it could not be decoded, and are left out"])
    np.testing.assert_allclose(cut, SOUND[: len(cut)], atol=2**-15)
    middle = len(whole) // 2
    for damaged in (whole[:middle] + bytes(50) + whole[middle + 50 :], whole[:middle] + whole[middle + 9000 :]):
        path.write_bytes(damaged)
        with Recording(path, RATE) as recording:
            assert len(recording.notes) == 1 and "damaged or missing: silence is in their place" in recording.notes[0]
            np.testing.assert_allclose(recording.read(80000, 96000), SOUND[80000:], atol=2**-15)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_of_several_streams_cut_or_damaged(tmp_path, subtype):
    pytest.importorskip("av")
    path, whole = tmp_path / "a.ogg", encoded("OGG", SOUND + HISS, subtype=subtype)
    converted = ["converted from 48000 to 16000 Hz"] if subtype == "OPUS" else []
    both = heard(path, whole + whole, 12, converted)
    assert is_at(both, 4, start=4) and is_at(both, 10, start=4)
    high = encoded("OGG", np.stack([chirp(2, 48000)] * 2, axis=1), 48000, subtype=subtype)
    both = heard(path, whole + high, 8, converted)
    assert is_at(both, 4, start=4) and is_at(both, 6)
    places = pages(whole)
    heard(path, whole[:-10], 5.0 if subtype == "OPUS" else 5.7, [CUT])  # its last page is not whole
    cut = heard(path, whole[: places[-1] - 1000], 4.0 if subtype == "OPUS" else 4.7, [CUT])
    assert is_at(cut, 2, start=2)
    first = bytearray(whole)  # the first page of sound
    first[places[3] - 20] ^= 255
    path.write_bytes(first)
    with Recording(path, RATE) as recording:
        assert any("damaged or missing" in note for note in recording.notes)
    path.write_bytes(whole[: places[4]] + whole[places[5] :])
    with Recording(path, RATE) as recording:
        assert recording.notes[:-1] == converted and "damaged or missing" in recording.notes[-1]
        assert is_at(recording.read(0, recording.length), 4.8, start=4.8)


def test_mp3_without_a_right_header(tmp_path):
    pytest.importorskip("av")
    path, (whole, bare) = tmp_path / "a.mp3", mp3()
    delay = 1105  # of every encoder; only the header says it
    samples = heard(path, bare, 6.06, [])
    assert is_at(samples, 2, start=2, delay=delay) and is_at(samples, 4.9, start=4.9, delay=delay)
    both = heard(path, whole + whole, 12.1, [LONGER])
    assert is_at(both, 2, start=2)
    heard(path, whole[: len(whole) // 2], 3.86, [SHORTER])
    samples = heard(path, whole[:-300], 6, [])  # of the last frame something is missing
    assert is_at(samples, 4.9, start=4.9)
    assert is_at(heard(path, bare[:-300], 6.03, []), 2, start=2, delay=delay)


def test_what_libsndfile_does_not_know_is_decoded(tmp_path):
    path = tmp_path / "a.m4a"
    whole = muxed(path, "aac", movflags="faststart")
    assert is_at(heard(path, whole, 6, []), 5, start=5)
    heard(path, whole[: len(whole) // 2], 3, [SHORTER])
    path.write_bytes(whole * 4)
    with Recording(path) as recording:
        assert len(recording.notes) == 1 and "are left out: no sound is known to be there" in recording.notes[0]
    path = tmp_path / "a.webm"
    assert is_at(heard(path, muxed(path, "libopus"), 6, ["converted from 48000 to 16000 Hz"]), 5, start=5)
    path = tmp_path / "a.ogg"
    assert is_at(heard(path, muxed(path, "flac") * 2, 12, []), 11, start=5)
    size = struct.pack(">I", 100000)
    au = encoded("AU", subtype="PCM_16")
    assert is_at(heard(tmp_path / "a.au", au[:8] + size + au[12:], 6, [LONGER]), 5, start=5)
    aiff = encoded("AIFF", subtype="PCM_16")
    at = aiff.index(b"SSND") + 4
    path = tmp_path / "a.aiff"
    path.write_bytes(aiff[:at] + size + aiff[at + 4 :])
    with Recording(path) as recording:
        assert len(recording.notes) == 1 and "are left out" in recording.notes[0]


def test_other_files_are_not_opened(tmp_path):
    """Playlists name files and addresses; FFmpeg would read them."""
    (tmp_path / "in.mp3").write_bytes(encoded("MP3"))
    lists = {"a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nin.mp3\n#EXT-X-ENDLIST\n"}
    lists["a.ffconcat"] = "ffconcat version 1.0\nfile in.mp3\n"
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        assert "not to be read" in refused(tmp_path / name)


def test_without_pyav_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for content in (flac(0), b"no recording" * 100):
        (tmp_path / "a").write_bytes(content)
        assert refused(tmp_path / "a").endswith(". Fix: pip install av")
    heard(tmp_path / "a", flac(96000), 6, ["its length is what its header says (to have it checked: pip install av)"])
    heard(tmp_path / "a", wav(0), 6, [])


def test_where_tmpdir_is_full_it_is_said(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr(pyav, "_temporary", lambda: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    (tmp_path / "a.flac").write_bytes(flac(0))
    assert "No space left on device. Fix: set TMPDIR" in refused(tmp_path / "a.flac")


def test_where_channels_cancel_one_is_heard(tmp_path, noise):
    path = tmp_path / "a.wav"

    def cancelled(left, right, subtype="FLOAT"):
        """What is heard of two channels, and in how many seconds of one only."""
        soundfile.write(path, np.stack([left, right], axis=1), RATE, subtype=subtype)
        with Recording(path, RATE) as recording:
            unread = recording.notes  # as of a run that goes on where all was heard
        with Recording(path, RATE) as recording:
            samples = recording.read(0, recording.length)
            parts = [recording.read(start, min(start + 7001, 48000)) for start in range(0, 48000, 7001)]
            np.testing.assert_array_equal(np.concatenate(parts), samples)
            assert recording.notes == unread and unread[0] == "2 channels, mixed into one"
        text = "its channels cancel each other in {} of 3 s: one of them is heard there"
        return samples, next((n for n in range(4) if unread[1:] == ([text.format(n)] if n else [])), unread)

    samples, seconds = cancelled(noise, -noise)
    np.testing.assert_array_equal(samples, noise)
    assert seconds == 3
    assert cancelled(noise, -noise, "PCM_16")[1] == 3
    assert cancelled(noise, -0.7 * noise + 0.1 * noise[::-1])[1] == 3  # not wholly
    turned = np.where((np.arange(48000) >= 16000) & (np.arange(48000) < 32000), -noise, noise)
    samples, seconds = cancelled(noise, turned)
    np.testing.assert_array_equal(samples, noise)
    assert seconds == 1
    for right in (noise, noise[::-1], 0 * noise, 0.3 * noise, -0.3 * noise, -0.7 * noise + 0.7 * noise[::-1]):
        samples, seconds = cancelled(noise, right)
        np.testing.assert_allclose(samples, (noise + right) / 2, atol=1e-7)
        assert seconds == 0
    assert cancelled(0 * noise, 0 * noise)[1] == 0


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_of_the_scale_of_integers_are_divided(tmp_path, noise, subtype):
    path = tmp_path / "a.wav"

    def read(samples):
        soundfile.write(path, samples, RATE, subtype=subtype)
        with Recording(path, RATE) as recording, Recording(samples, RATE) as array:
            assert recording.notes == array.notes
            np.testing.assert_array_equal(recording.read(0, 48000), array.read(0, 48000))
            return recording.read(1000, 48000), recording.notes

    for bits in (16, 24, 32):
        samples, notes = read(noise * np.float32(2.0 ** (bits - 1)))
        np.testing.assert_array_equal(samples, noise[1000:])
        assert notes == [f"floats of the scale of {bits}-bit integers: divided by {2 ** (bits - 1)}"]
    quiet = np.where(np.arange(48000) < 40000, 0, noise)  # most of it is nothing
    np.testing.assert_array_equal(read(np.float32(2**15) * quiet)[0], quiet[1000:])
    clicks = noise.copy()
    clicks[::100] = 30000
    for samples, expected in ((noise, []), (5 * noise, []), (clicks, [])):
        np.testing.assert_array_equal(read(samples)[0], samples[1000:])
        assert read(samples)[1] == expected
    assert read(30 * noise)[1] == ["floats beyond 2, where 1 is full scale: left as they are"]
    with pytest.raises(AudioError, match="beyond any scale that is known. Fix: "):
        read(noise * np.float32(1e20))


def test_commands_run_only_where_they_are_wanted(tmp_path, noise, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise, 16000, subtype="FLOAT")
    entry = f"cat {tmp_path}/a.wav |"
    with open_entry(entry, True, 16000) as recording:
        np.testing.assert_array_equal(recording.read(5, 100), noise[5:100])
        assert recording.identity()["name"] == entry
    marked = tmp_path / "ran"
    for entry, pipes, reason in (
        (f"touch {marked} |", False, "a command, which is not allowed"),
        ("false |", True, "status 1"),
        ("true |", True, "not to be read"),
    ):
        with pytest.raises(AudioError, match=reason), open_entry(entry, pipes, 16000):
            pass
    # to kaldiio a path with such a name is a command
    soundfile.write(tmp_path / "touch ran|", noise, 16000, format="WAV")
    monkeypatch.chdir(tmp_path)
    with open_entry("touch ran|:0", False, 16000) as recording:
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
        with open_entry(entry, False) as recording:
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
        with pytest.raises(AudioError, match=reason), open_entry(f"{tmp_path}/{entry}", True, 16000):
            pass
    assert not marked.exists()


@pytest.mark.parametrize("start, stop", [(5, 3), (-1, 3), (0, 101)])
def test_what_is_not_within_a_recording_is_not_read(start, stop):
    recording = Recording(np.zeros(100, np.float32), 16000)
    with pytest.raises(ValueError, match=f"has 100 samples, and none from {start} to {stop}"):
        recording.read(start, stop)
