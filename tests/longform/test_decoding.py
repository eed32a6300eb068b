"""Memory, resuming, silence, options of LongForm."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_rand.longform import LongForm, decoding
from espnet_rand.longform.audio import AudioError, Recording
from espnet_rand.longform.journal import JournalError
from espnet_rand.toolkit.recognition import Heard, Word

from .stub import RATE, Stub, ramp, spoken

TEXT = "one two three four five six seven eight nine zero".split() * 12  # noqa: SIM905
HERE = Path(__file__).resolve().parents[2]


def test_an_hour_takes_no_more_memory_than_a_minute(tmp_path):
    # stereo at 8 kHz for a model of 16 kHz: mixed and converted, too
    minute = (np.random.default_rng(0).standard_normal((8000 * 60, 2)) * 3000).astype(np.int16)
    for name, minutes in (("minute", 1), ("hour", 60)):
        with soundfile.SoundFile(tmp_path / f"{name}.wav", "w", 8000, 2, "PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
    script = f"""
import resource
from espnet_rand.longform import LongForm
from espnet_rand.toolkit.recognition import Heard, Word
class Hears:
    rate = 16000
    def __call__(self, samples):
        return Heard([Word("a", len(samples) / 32000, len(samples) / 32000 + 0.2)])
for name in ("minute", "hour"):
    found = LongForm(Hears())("{tmp_path}/" + name + ".wav")
    print(found.seconds, len(found.words) >= found.seconds // 30, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=HERE)
    (short, *_, before), (long, enough, after) = (line.split() for line in done.stdout.splitlines())
    assert (float(short), float(long), enough) == (60, 3600, "True")
    assert int(after) - int(before) < 30_000  # KiB; the hour's samples are 225,000


def test_a_killed_run_goes_on_after_its_last_window(tmp_path):
    said = spoken(TEXT)
    audio = ramp(said[-1].end + 1)
    journal = tmp_path / "deep/key.jsonl"
    pid = os.fork()
    if not pid:  # the child

        class Killed(Stub):
            def __call__(self, samples):
                heard = super().__call__(samples)
                if len(self.calls) == 4:
                    os.kill(os.getpid(), signal.SIGKILL)
                return heard

        LongForm(Killed(said), window=10, overlap=3)(audio, journal)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with journal.open("a") as file:
        file.write('{"words": [["on')  # killed while it wrote
    stub = Stub(said)
    done = []
    found = LongForm(stub, window=10, overlap=3)(audio, journal, progress=lambda *seconds: done.append(seconds))
    assert found.text == " ".join(TEXT)
    assert stub.calls[0] == 3 * 700 and len(stub.calls) == len(done) - 1
    assert done[0] == (2 * 7 + 10, found.seconds) and done[-1] == (found.seconds, found.seconds)
    again = Stub(said)
    assert LongForm(again, window=10, overlap=3)(audio, journal) == found
    assert not again.calls


def test_a_journal_of_other_options_is_refused(tmp_path):
    audio, journal = ramp(20), tmp_path / "key.jsonl"
    LongForm(Stub([]), window=10)(audio, journal, of={"beam_size": 2})
    for options, of, name in (({"window": 12}, 2, "overlap, window"), ({"window": 10}, 3, "beam_size")):
        with pytest.raises(JournalError, match=f"other {name}.*Fix"):
            LongForm(Stub([]), **options)(audio, journal, of={"beam_size": of})
    with pytest.raises(JournalError, match="other recording"):
        LongForm(Stub([]), window=10)(ramp(21), journal, of={"beam_size": 2})
    with pytest.raises(JournalError, match="other recording"):
        LongForm(Stub([]), window=10)(ramp(20)[::-1], journal, of={"beam_size": 2})


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"version": 3}', '{"version": 3, "crc32": 0}', "\x00\xff"])
def test_a_damaged_journal_is_refused(tmp_path, line):
    journal = tmp_path / "key.jsonl"
    journal.write_bytes(line.encode("latin1") + b"\n")
    with pytest.raises(JournalError, match="damaged"):
        LongForm(Stub([]))(ramp(5), journal)


def test_silence_is_not_decoded():
    said = spoken(TEXT)
    stub = Stub(said)
    audio = ramp(said[-1].end)
    audio[1000:3000] = 0
    found = LongForm(stub, window=10, overlap=3)(audio)
    assert 1400 not in stub.calls and "silent (1 of" in found.notes[0]
    assert LongForm(stub)(np.zeros(700, np.float32)).text == ""


def test_windows_of_a_decoder_with_a_guard_begin_in_pauses():
    """Whisper loses what follows a word that a window cuts."""
    audio = np.random.default_rng(0).uniform(-1, 1, 30 * RATE).astype(np.float32)
    audio[850:880] *= 0.01  # windows of 10 s would begin at 7.5, 15 ...
    stub = Stub([])
    with Recording(audio, RATE) as recording:
        plain = LongForm(stub, window=10, overlap=2.5).pieces(recording)
        stub.guard = True
        moved = LongForm(stub, window=10, overlap=2.5).pieces(recording)
    assert [piece.start for piece in plain] == [0, 750, 1500, 2250]
    assert moved[0].start == 0 and 850 <= moved[1].start <= 875 and 1500 <= moved[2].start <= 1625
    assert [piece.stop for piece in moved] == [piece.stop for piece in plain] == [1000, 1750, 2500, 3000]


def test_pieces_of_speech_with_pauses_between_them_stay_as_they_are(tmp_path, monkeypatch):
    """Only what a piece shares with the one before is looked at."""
    rate = 16000
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 60 * rate), rate)
    stub = Stub([])
    stub.guard, stub.rate = True, rate
    spoken_in = [(0, 9 * rate), (10 * rate, 19 * rate), (30 * rate, 55 * rate)]
    monkeypatch.setattr(decoding.vad, "check", lambda rate: None)
    monkeypatch.setattr(decoding.vad, "speech", lambda recording: spoken_in)
    with Recording(tmp_path / "a.wav", rate) as recording:
        pieces = LongForm(stub, mode="vad", window=10, overlap=2).pieces(recording)
    starts = [piece.start / rate for piece in pieces]
    assert starts[:3] == [0, 10, 30] and 38 < starts[3] < 39 and 46 < starts[4] < 47
    assert [piece.stop / rate for piece in pieces] == [9, 19, 40, 48, 55]
    notes = LongForm(stub, mode="vad", window=10, overlap=2)(tmp_path / "a.wav").notes
    assert notes == ["17.0 s that silero-vad takes for no speech: not heard"]


def test_whole_is_one_piece():
    said = spoken(TEXT)
    stub = Stub(said)
    assert LongForm(stub, mode="whole")(ramp(said[-1].end + 1)).text == " ".join(TEXT)
    assert stub.calls == [0]


def test_what_a_model_cannot_hear_at_once_is_refused():
    stub = Stub([])
    stub.longest = 30 * RATE
    LongForm(stub, window=30)(ramp(40))
    with pytest.raises(ValueError, match="30.1: the model hears no more than 30 seconds"):
        LongForm(stub, window=30.1)
    whole = LongForm(stub, mode="whole", window=40)
    whole(ramp(30))
    with pytest.raises(AudioError, match="30.5 s, of which the model hears 30 at once.*Fix"):
        whole(ramp(30.5))


@pytest.mark.parametrize(
    "options",
    [{"mode": "all"}, {"overlap": -1}, {"window": 10, "overlap": 6}]
    + [{"window": window} for window in (0, 1e-5, float("inf"), float("nan"))],
)
def test_wrong_options(options):
    with pytest.raises(ValueError):
        LongForm(Stub([]), **options)


def test_scripts_without_spaces_are_joined_without():
    class Hears:
        rate = 100

        def __call__(self, samples):
            return Heard([Word(c, n, n + 0.5) for n, c in enumerate(["hello", "world", "今", "日", "は", "ok"])])

    assert LongForm(Hears())(ramp(8)).text == "hello world 今日は ok"


def test_the_journal_is_plain_json(tmp_path):
    said = spoken(TEXT)
    LongForm(Stub(said), window=10, overlap=3)(ramp(20), tmp_path / "key.jsonl", of={"model": "m"})
    first, *pieces = [json.loads(line) for line in (tmp_path / "key.jsonl").read_text().splitlines()]
    assert first["of"]["model"] == "m" and len(first["pieces"]) == len(pieces) == 3
