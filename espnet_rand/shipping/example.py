"""Runs the decode.py of a folder: what a user is given as an example is what is checked."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping

from rich.progress import track

from espnet_rand.errors import UserError


class ExampleError(UserError):
    """A folder's decode.py ended with an error."""


@dataclass(frozen=True)
class Decoded:
    """What decode.py said, and what it took.

    Attributes:
        texts: of the recordings, by their keys
        load_seconds: CPU seconds until the model is there, the start of Python included
        cpu_seconds: CPU seconds of the recordings
        peak_bytes: of memory
    """

    texts: Dict[str, str]
    load_seconds: float
    cpu_seconds: float
    peak_bytes: int


def decode(folder: Path, files: Mapping[str, Path], title: str) -> Decoded:
    """Decode recordings by the decode.py in a folder, in a process of its own, which has one thread.

    Raises:
        ExampleError: it ended with an error, or said nothing of a recording
    """
    _, load, _ = _run(folder, [], f"{title}: load")
    lines, seconds, peak = _run(folder, [str(path) for path in files.values()], title)
    said = dict(line.partition("\t")[::2] for line in lines)
    if missing := [key for key, path in files.items() if str(path) not in said]:
        raise ExampleError(f"{folder}/decode.py said nothing of {missing[0]}")
    return Decoded({key: said[str(path)] for key, path in files.items()}, load, max(seconds - load, 0.0), peak)


def _run(folder: Path, files: List[str], title: str):
    """The lines that decode.py prints, its CPU seconds, and its peak memory in bytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, str(folder / "decode.py"), *files],
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            env=environment,
        )
        known = set(files)
        lines = []
        said = (line for line in process.stdout if line.partition("\t")[0] in known)
        for line in track(said, title, total=len(files), transient=True):
            lines.append(line.rstrip("\n"))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        if process.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [f"status {process.returncode}"])[-1]
            raise ExampleError(f"{folder}/decode.py failed: {last}")
    return lines, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
