#!/usr/bin/env python3
"""How well the times from Whisper's attention fit, where it is known when words are said, and what they are good for.

    benchmarks/whisper_times.py egs2/prompts/asr1 --model exp/tuned.1/valid.acc.best.pth

from a recipe's directory whose stages 1 to 4 are done, with WHISPER_CHECKPOINT as its run.sh sets it. Recordings of a
test set are joined, without the silence at their ends. The first table has the first words of recordings, in pieces of
20 s: how far their times are from where the recording gets loud. Pieces count where as many words are heard as were
said. The second has the word errors on all recordings joined to one, with these times and with words spread evenly.
One thread; beam 1, the decoder alone.
"""

import unittest.mock
from pathlib import Path

import jiwer
import numpy as np
import torch
from whisper_silence import RATE, WINDOW, build, parser_of, recordings

LOUD = 0.02


def pieces(entries):
    """Yield recordings that are joined to pieces: samples, and for each recording where it gets loud and its text."""
    parts, starts, length = [], [], 0
    for _, samples, text in entries:
        if length + len(samples) > WINDOW:
            yield np.concatenate(parts), starts
            parts, starts, length = [], [], 0
        starts.append(((length + np.flatnonzero(np.abs(samples) > LOUD)[0]) / RATE, text))
        parts.append(samples)
        length += len(samples)
    yield np.concatenate(parts), starts


def errors(recognizer, entries):
    """The pieces that count, and the errors of the times of first words in seconds."""
    found, count = [], 0
    for samples, starts in pieces(entries):
        heard = recognizer(samples)
        if len(heard.words) != sum(len(text.split()) for _, text in starts):
            continue
        count, word = count + 1, 0
        for start, text in starts:
            found.append(heard.words[word].start - start)
            word += len(text.split())
    return count, np.abs(found)


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--windows", nargs="+", default=["20,4", "10,2"], help="seconds, and those of the overlap")
    parser.set_defaults(maxlenratio=-400)
    args = parser.parse_args()
    torch.set_num_threads(1)
    speech2text = build(args)
    from whisper.normalizers import EnglishTextNormalizer

    from espnet_rand.longform import LongForm
    from espnet_rand.toolkit.recognition import Recognizer, recognizer

    clean = EnglishTextNormalizer()
    entries = [*recordings(Path("data", args.set), None)]
    count, found = errors(Recognizer(speech2text), entries)
    print("| pieces | first words | half are within | nine of ten within |\n| --- | --- | --- | --- |")
    print(f"| {count} | {len(found)} | {np.median(found):.2f} s | {np.quantile(found, 0.9):.2f} s |\n", flush=True)
    whole, said = np.concatenate([samples for _, samples, _ in entries]), " ".join(text for *_, text in entries)
    print("| window, overlap | times from | WER % | substituted, deleted, inserted |\n| --- | --- | --- | --- |")
    for given in args.windows:
        window, overlap = map(float, given.split(","))
        for name in ("attention", "spreading"):
            with unittest.mock.patch.object(
                recognizer, "whisper_frames", recognizer.whisper_frames if name == "attention" else lambda *_: None
            ):
                heard = LongForm(speech2text, window=window, overlap=overlap)(whole)
            result = jiwer.process_words(clean(said), clean(heard.text))
            kinds = f"{result.substitutions}, {result.deletions}, {result.insertions}"
            print(f"| {window:g} s, {overlap:g} s | {name} | {100 * result.wer:.2f} | {kinds} |", flush=True)


if __name__ == "__main__":
    main()
