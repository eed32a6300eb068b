"""Loads a folder as a user would who got it from the hub: by its name, in a process of its own, from elsewhere."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Dict, Mapping

import numpy as np
import soundfile

import espnet_rand
from espnet_rand.environment import OPTIONS
from espnet_rand.errors import UserError
from espnet_rand.processes import STARTUP

# stands for the version of the folder
_COMMIT = "0" * 40
# runs programs, and says which of them ended well
_DONE = "espnet_rand: this program is done"
_RUN = f"""\
import runpy, sys
for name in sys.argv[1:]:
    runpy.run_path(name)
    print("{_DONE}", flush=True)
"""


class CheckError(UserError):
    """What is to be published does not load."""


def check(folder: Path, tag: str, programs: Mapping[str, str]) -> None:
    """Run programs of the card, with the folder where the hub's own library keeps downloads, and without a network.

    They run one after another, in one process, which has nothing of this one, and in an empty directory with a
    recording of noise, recording.wav.

    Args:
        programs: by what they show

    Raises:
        CheckError: one ended with an error
    """
    with tempfile.TemporaryDirectory(prefix="espnet_rand.") as temporary:
        cache, home = Path(temporary, "cache"), Path(temporary, "home")
        home.mkdir()
        _place(folder, cache, tag)
        noise = np.random.default_rng(0).standard_normal(16000)
        soundfile.write(home / "recording.wav", 0.01 * noise, 16000)
        names = [f"{number}.py" for number in range(len(programs))]
        for name, program in zip(names, programs.values()):
            (home / name).write_text(program, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *names],
            cwd=home,
            env=_environment(cache),
            capture_output=True,
            text=True,
            errors="replace",
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        failed = [*programs][done.stdout.splitlines().count(_DONE)]
        raise CheckError(f"{failed} does not load what is to be published: {reason.replace(str(cache), '')}")


def _place(folder: Path, cache: Path, tag: str) -> None:
    """Put a copy of the folder into a cache of the hub's library, beside what the user's own has."""
    from huggingface_hub import constants

    ours = cache / f"models--{tag.replace('/', '--')}"
    shutil.copytree(folder, ours / "snapshots" / _COMMIT, copy_function=_link)
    (ours / "refs").mkdir()
    (ours / "refs/main").write_text(_COMMIT)
    own = Path(constants.HF_HUB_CACHE)
    for entry in own.iterdir() if own.is_dir() else ():
        with suppress(FileExistsError):
            (cache / entry.name).symlink_to(entry.resolve())


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _environment(cache: Path) -> Dict[str, str]:
    """That of a user's Python, which has this package, but was not started by `espnet-rand` with options."""
    entries = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    package = str(Path(espnet_rand.__file__).parents[1])
    others = [entry for entry in entries if entry not in (str(STARTUP), package)]
    return {
        **{name: value for name, value in os.environ.items() if name not in OPTIONS},
        "PYTHONPATH": os.pathsep.join([package, *others]),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
    }
