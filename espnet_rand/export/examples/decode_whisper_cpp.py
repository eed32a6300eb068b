"""Decode recordings with the model in this folder, by whisper.cpp: python decode.py FILE ...

Needs pywhispercpp and soundfile. Takes WAV, FLAC and Ogg of 16 kHz.
Prints a line for each: the file, a tab, the text.
"""

import os
import sys
from pathlib import Path

import soundfile
from pywhispercpp.model import Model

LANGUAGE = "en"
TIMESTAMPS = False  # ESPnet trains without
AUDIO_CTX = 0  # frames of 20 ms that are heard; 0: 30 s, fewer are faster

model = Model(
    str(Path(__file__).resolve().parent / "model.bin"),
    redirect_whispercpp_logs_to=os.devnull,
    n_threads=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())),
    language=LANGUAGE,
    audio_ctx=AUDIO_CTX,
    no_timestamps=not TIMESTAMPS,
    print_progress=False,
)
for path in sys.argv[1:]:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as e:
        sys.exit(f"{e} Fix: give a WAV, FLAC or Ogg file")
    if rate != 16000:
        sys.exit(f"{path}: {rate} Hz, and the model hears 16000. Fix: sox {path} -r 16000 converted.wav")
    said = " ".join(segment.text for segment in model.transcribe(samples.mean(axis=1)))
    print(path, " ".join(said.split()), sep="\t", flush=True)
