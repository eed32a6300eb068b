"""Decode recordings with the model in this folder, by ESPnet: python decode.py FILE.wav ...

Needs espnet and espnet_rand. Prints a line for each recording: the file, a tab, the text.
"""

import importlib
import os
import sys
from pathlib import Path

import espnet_rand

espnet_rand.register()
from espnet_rand.longform import LongForm  # noqa: E402

TASK = "asr"
SEARCH = {"beam_size": 5}

files = {given: os.path.abspath(given) for given in sys.argv[1:]}
os.chdir(Path(__file__).resolve().parent)  # paths in config.yaml begin here
(model,) = Path(".").glob("model.*")
inference = importlib.import_module(f"espnet2.bin.{TASK}_inference")
hear = LongForm(inference.Speech2Text("config.yaml", str(model), **SEARCH))
for given, path in files.items():
    print(given, " ".join(hear(path).text.split()), sep="\t", flush=True)
