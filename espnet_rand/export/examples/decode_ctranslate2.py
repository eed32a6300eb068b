"""Decode recordings with the model in this folder, by CTranslate2: python decode.py FILE ...

Needs faster-whisper and soundfile. Takes WAV, FLAC and Ogg of 16 kHz.
Prints a line for each: the file, a tab, the text.
"""

import os
import sys
from pathlib import Path

import soundfile
from faster_whisper import WhisperModel

LANGUAGE = "en"
COMPUTE_TYPE = "int8"
SEARCH = {"beam_size": 5, "without_timestamps": True}  # ESPnet trains without

model = WhisperModel(
    str(Path(__file__).resolve().parent / "model"),
    device="cpu",
    compute_type=COMPUTE_TYPE,
    cpu_threads=int(os.environ.get("OMP_NUM_THREADS", 0)),
)
for path in sys.argv[1:]:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as e:
        sys.exit(f"{e} Fix: give a WAV, FLAC or Ogg file")
    if rate != 16000:
        sys.exit(f"{path}: {rate} Hz, and the model hears 16000. Fix: sox {path} -r 16000 converted.wav")
    segments, _ = model.transcribe(samples.mean(axis=1), language=LANGUAGE, **SEARCH)
    said = " ".join(segment.text for segment in segments)
    print(path, " ".join(said.split()), sep="\t", flush=True)
