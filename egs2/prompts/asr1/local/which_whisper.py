#!/usr/bin/env python3
"""Print OpenAI's name of the model whose sizes a checkpoint of openai-whisper has: tiny.en, base ...

Where OpenAI has no such model, it is `other` or other.en. Models whose name ends in .en know English alone.
"""

import argparse
import pickle
import sys
import zipfile
from pathlib import Path

import torch

NAMES = {(384, 4): "tiny", (512, 6): "base", (768, 12): "small", (1024, 24): "medium", (1280, 32): "large"}
MULTILINGUAL = 51865  # so many tokens or more, as openai-whisper has it


def name_of(path):
    """Return the name.

    Raises:
        ValueError: it is no checkpoint of openai-whisper
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        dims = checkpoint["dims"]
        name = NAMES.get((dims["n_audio_state"], dims["n_audio_layer"]), "other")
        return name if dims["n_vocab"] >= MULTILINGUAL else f"{name}.en"
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, LookupError, TypeError) as e:
        raise ValueError(f"{path} is no checkpoint of openai-whisper. Fix: README.md says how to make one") from e


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    try:
        print(name_of(parser.parse_args().checkpoint))
    except ValueError as e:
        sys.exit(f"{sys.argv[0]}: {e}")


if __name__ == "__main__":
    main()
