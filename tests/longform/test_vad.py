"""Stretches with speech, where silero-vad is installed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from espnet_rand.longform import LongForm, vad
from espnet_rand.longform.audio import Recording
from espnet_rand.longform.pieces import Piece, packed
from espnet_rand.toolkit.recognition import Heard, Word


def test_speech_is_packed_into_windows():
    assert packed([(0, 10), (12, 20), (25, 31), (40, 45)], 20, 4) == [Piece(0, 20), Piece(25, 45)]
    # a stretch that is longer than a window overlaps; the next one does not
    assert packed([(5, 45), (44, 50)], 20, 4) == [Piece(5, 25), Piece(21, 41), Piece(37, 50)]


@pytest.mark.parametrize(
    "rate, message", [(16000, "pip install silero-vad"), (22050, "has 22050. Fix: --mode windows")]
)
def test_what_is_missing_is_said_before_any_recording(monkeypatch, rate, message):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(vad.VadError, match=message):
        LongForm(SimpleNamespace(rate=rate), mode="vad")


def test_speech_is_found(monkeypatch):
    pytest.importorskip("silero_vad")
    pytest.importorskip("espeakng_loader")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "egs2/mini/asr1/local")
    from make_corpus import SAMPLE_RATE, Espeak
    from scipy.signal import resample_poly

    threads = torch.get_num_threads()
    espeak = Espeak()
    espeak.set_voice("gmw/en-US", "m1")
    speech = resample_poly(espeak.say("one two three four five", 150, 50) / 2.0**15, SAMPLE_RATE, espeak.rate)
    pause = np.zeros(3 * SAMPLE_RATE)
    samples = np.concatenate([pause, speech, pause, speech, pause]).astype(np.float32)
    samples += 1e-3 * np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)

    class Hears:
        rate = SAMPLE_RATE

        def __call__(self, samples):
            return Heard([Word("speech", 0.0, len(samples) / SAMPLE_RATE)])

    found = vad.speech(Recording(samples, SAMPLE_RATE))
    starts = [3.0, 6.0 + len(speech) / SAMPLE_RATE]
    assert [start / SAMPLE_RATE for start, _ in found] == pytest.approx(starts, abs=0.5)
    assert [(stop - start) / len(speech) for start, stop in found] == pytest.approx([1, 1], abs=0.4)
    words = LongForm(Hears(), mode="vad", window=4)(samples).words
    assert [word.start for word in words] == pytest.approx(starts, abs=0.5)
    silence = LongForm(Hears(), mode="vad")(np.zeros(SAMPLE_RATE, np.float32))
    assert not silence.words and silence.notes == ["no speech found"]
    assert torch.get_num_threads() == threads
