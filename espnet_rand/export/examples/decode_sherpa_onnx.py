"""Decode recordings with the model in this folder, by sherpa-onnx: python decode.py FILE ...

Needs sherpa-onnx and soundfile. Takes WAV, FLAC and Ogg. Prints a line for each: the file, a tab, the text.
"""

import os
import sys
from pathlib import Path

import numpy as np
import sherpa_onnx
import soundfile

LOADER = "OfflineRecognizer.from_whisper"
OPTIONS = {"encoder": "encoder.onnx", "decoder": "decoder.onnx", "tokens": "tokens.txt"}

folder = Path(__file__).resolve().parent / "model"
options = {name: str(folder / value) if value in os.listdir(folder) else value for name, value in OPTIONS.items()}
kind, _, loader = LOADER.partition(".")
recognizer = getattr(getattr(sherpa_onnx, kind), loader)(
    num_threads=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())), **options
)


def decode(samples, rate):
    """The text of samples, (samples,) float32; a recognizer of streams gets them at once."""
    stream = recognizer.create_stream()
    stream.accept_waveform(rate, samples)
    if kind == "OfflineRecognizer":
        recognizer.decode_stream(stream)
        return stream.result.text
    # the last frames wait for what comes after them; as in sherpa-onnx's own examples
    stream.accept_waveform(rate, np.zeros(int(0.66 * rate), np.float32))
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return recognizer.get_result(stream)


for path in sys.argv[1:]:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as e:
        sys.exit(f"{e} Fix: give a WAV, FLAC or Ogg file")
    print(path, " ".join(decode(samples.mean(axis=1), rate).split()), sep="\t", flush=True)
