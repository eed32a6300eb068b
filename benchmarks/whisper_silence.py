#!/usr/bin/env python3
"""Whisper with and without silence behind its recordings, and what the guard costs and takes away.

    benchmarks/whisper_silence.py egs2/prompts/asr1 --model exp/tuned.1/valid.acc.best.pth --trailing_silence 0 3 full
    benchmarks/whisper_silence.py egs2/prompts/asr1 --alone
    benchmarks/whisper_silence.py egs2/prompts/asr1 --noise 10

from a recipe's directory whose stages 1 to 4 are done, with WHISPER_CHECKPOINT as its run.sh sets it. The first prints
the word error rate of a test set, whose recordings lose the silence that the recipe put behind them, and the seconds of
CPU time that decoding took. In the second each recording stands by itself in 20 s of a quiet room. The third prints the
words that the model hears in so many minutes of noise of each kind, in windows of 20 s. One thread; beam 1, the decoder
alone.
"""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch

from espnet_rand.kaldi import read_lines

RATE = 16000
WINDOW = 20 * RATE


def recordings(folder, limit):
    """Yield the key, the samples without the zeros at their end, and the text of recordings."""
    text = read_lines(folder / "text")
    for key, path in [*read_lines(folder / "wav.scp").items()][:limit]:
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        yield key, samples[: np.flatnonzero(samples)[-1] + 1], text[key]


def colored(count, slope, rng):
    """Make noise whose power falls with the frequency to the power of `slope`."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequencies = np.maximum(np.arange(len(spectrum)), 1)
    samples = np.fft.irfft(spectrum / frequencies ** (slope / 2), count)
    return samples / samples.std()


def hum(count, frequency, rng):
    """Make a mains' hum with its harmonics, and a little noise."""
    t = np.arange(count) / RATE
    samples = sum(np.sin(2 * np.pi * frequency * k * t + k) / k for k in range(1, 12))
    return samples / samples.std() + 0.02 * rng.standard_normal(count)


def noises(minutes):
    """Yield the name and the windows of each kind of sound in a room where nobody speaks.

    Levels are in decibels below full scale.
    """
    rng = np.random.default_rng(0)
    count = round(60 * RATE / WINDOW * minutes)
    colors = [lambda slope=slope: colored(WINDOW, slope, rng) for slope in (0, 1, 2)]
    hums = [lambda f=f: hum(WINDOW, f, rng) for f in (50, 60, 120)]
    kinds = {"silence": (colors, (-90, -80, -70, -60)), "hum": (hums, (-50, -30, -15)), "noise": (colors, (-40, -20))}
    for name, (made, levels) in kinds.items():
        places = [(make, level) for level in levels for make in made]
        windows = (places[i % len(places)] for i in range(count))
        yield name, [(make() * 10 ** (level / 20)).astype(np.float32) for make, level in windows]


def alone(samples, rng):
    """Put a recording into the middle of a window of a room's noise, 60 decibels below full scale."""
    room = (colored(WINDOW, 1, rng) * 10 ** (-60 / 20)).astype(np.float32)
    start = (WINDOW - len(samples)) // 2
    room[start : start + len(samples)] += samples
    return room


def build(args):
    """Build the Speech2Text of the model that is measured."""
    sys.path.insert(0, str(args.recipe / "local"))
    import espnet_rand

    espnet_rand.register()
    import whisper_local  # noqa: F401
    from espnet2.bin.asr_inference import Speech2Text

    os.chdir(args.recipe)
    config = args.config or Path(args.model or "exp/float/x").parent / "config.yaml"
    return Speech2Text(config, args.model, beam_size=1, ctc_weight=0.0, maxlenratio=args.maxlenratio)


def sounds(args):
    """The sets to decode, with their names: key, samples and text of each recording."""
    if args.noise:
        return [(name, [(name, window, "") for window in windows]) for name, windows in noises(args.noise)]
    entries = [*recordings(Path("data", args.set), args.limit)]
    if not args.alone:
        return [(args.set, entries)]
    rng = np.random.default_rng(0)
    return [(f"{args.set}, alone", [(key, alone(samples, rng), text) for key, samples, text in entries])]


def parser_of(description):
    """A parser of a recipe's model and test set."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=lambda text: Path(text).resolve())
    parser.add_argument("--config", help="default: config.yaml beside the model, or of exp/float")
    parser.add_argument("--model", help="default: Whisper as OpenAI made it")
    parser.add_argument("--set", default="test")
    return parser


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--limit", type=int, help="recordings")
    parser.add_argument("--maxlenratio", type=float, default=-40, help="below 0: tokens")
    parser.add_argument("--trailing_silence", nargs="+", default=["full"])
    parser.add_argument("--alone", action="store_true", help="each recording in 20 s of a quiet room")
    parser.add_argument("--noise", type=float, metavar="MINUTES", help="noise in place of speech")
    args = parser.parse_args()
    torch.set_num_threads(1)
    from espnet_rand.environment import TRAILING_SILENCE
    from espnet_rand.toolkit.recognition import Recognizer, join_text

    print("| trailing_silence | guard | set | words | WER % | substituted, deleted, inserted | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for silence in args.trailing_silence:
        os.environ[TRAILING_SILENCE] = silence
        speech2text = build(args)
        from whisper.normalizers import EnglishTextNormalizer

        clean = EnglishTextNormalizer()
        for name, entries in sounds(args):
            for guard in (False, True):
                recognizer = Recognizer(speech2text, guard=guard)
                begun = time.process_time()
                heard = [recognizer(samples) for _, samples, _ in entries]
                took = time.process_time() - begun
                texts = [join_text(one.words) for one in heard]
                words = sum(len(text.split()) for text in texts)
                row = [silence, guard, name, words]
                if args.noise:
                    row += ["", ""]
                else:
                    found = jiwer.process_words([clean(text) for *_, text in entries], [*map(clean, texts)])
                    row += [f"{100 * found.wer:.2f}", f"{found.substitutions}, {found.deletions}, {found.insertions}"]
                print("|", " | ".join(map(str, [*row, f"{took:.0f}"])), "|", flush=True)
                for note, times in sorted(Counter(note for one in heard for note in one.notes).items()):
                    print(f"  {times} x {note}", file=sys.stderr)


if __name__ == "__main__":
    main()
