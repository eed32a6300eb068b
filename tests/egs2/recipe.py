"""Recipes, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

PYTHONPATH = os.environ.get("PYTHONPATH", "")  # as it was before a test registers, which adds to it
EGS2 = Path(__file__).parents[2] / "egs2"


def run(*command, cwd=None):
    """Run a command in this Python's environment; returns what it said, and its status."""
    environment = dict(os.environ, VIRTUAL_ENV=sys.prefix, OMP_NUM_THREADS="1", PYTHONPATH=PYTHONPATH)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )
