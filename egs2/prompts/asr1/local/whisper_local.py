"""Lets `whisper_model: local` be the file that WHISPER_CHECKPOINT names: no network is needed.

Import it before a model is built (`espnet-rand --import whisper_local -m espnet2...`). A packed file needs neither.
"""

import os
from pathlib import Path

import whisper

LOCAL = "local"


def _load_model(name, *args, **kwargs):
    if name == LOCAL:
        name = os.environ.get("WHISPER_CHECKPOINT", "")
        if not Path(name).is_file():
            raise FileNotFoundError(
                f"whisper_model: {LOCAL} needs the environment variable WHISPER_CHECKPOINT "
                f"to name a checkpoint of openai-whisper; {name!r} is not a file"
            )
    return _stock_load_model(name, *args, **kwargs)


_stock_load_model = whisper.load_model
whisper.load_model = _load_model
whisper._MODELS.setdefault(LOCAL, "")  # ESPnet takes only names in whisper.available_models()
