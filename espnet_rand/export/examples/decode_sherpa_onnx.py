"""Decode recordings with the model in this folder, by sherpa-onnx: python decode.py FILE ...

Needs sherpa-onnx and soundfile. Takes WAV, FLAC and Ogg. Prints a line for each: the file, a tab, the text.
"""

import os
import sys
from pathlib import Path

import sherpa_onnx
import soundfile

LANGUAGE = "en"
RATE, BANDS = 16000, 80  # of the features of a model with CTC

folder = Path(__file__).resolve().parent / "model"
common = {"tokens": str(folder / "tokens.txt"), "num_threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))}
if (folder / "encoder.onnx").exists():
    recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
        str(folder / "encoder.onnx"), str(folder / "decoder.onnx"), language=LANGUAGE, **common
    )
else:
    recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        str(folder / "model.onnx"), sample_rate=RATE, feature_dim=BANDS, **common
    )
for path in sys.argv[1:]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    stream = recognizer.create_stream()
    stream.accept_waveform(rate, samples.mean(axis=1))
    recognizer.decode_stream(stream)
    print(path, " ".join(stream.result.text.split()), sep="\t", flush=True)
