"""Runs the decode.py of a folder: what a user is given as an example is what is checked."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

from espnet_rand.errors import UserError
from espnet_rand.reporting import following

# what two starts of one program may differ by, as a part of their CPU seconds
_NOISE = 0.05


class ExampleError(UserError):
    """A folder's decode.py ended with an error."""


@dataclass(frozen=True)
class Decoded:
    """What decode.py said, and what it took.

    Attributes:
        texts: of the recordings, by their keys
        load_seconds: CPU seconds until the model is there, the start of Python included
        cpu_seconds: CPU seconds of the recordings; None: too few to be told from those until the model is there
        peak_bytes: of memory
    """

    texts: Dict[str, str]
    load_seconds: float
    cpu_seconds: Optional[float]
    peak_bytes: int


def decode(folder: Path, files: Mapping[str, Path], title: str, threads: int = 1) -> Decoded:
    """Decode recordings by the decode.py in a folder, in a process of its own with so many threads.

    Raises:
        ExampleError: it ended with an error, or said nothing of a recording
    """
    _, load, _ = _run(folder, [], f"{title}: load", threads)
    lines, seconds, peak = _run(folder, [str(path) for path in files.values()], title, threads)
    said = dict(line.partition("\t")[::2] for line in lines)
    if missing := [key for key, path in files.items() if str(path) not in said]:
        raise ExampleError(f"{title}: decode.py said nothing of {missing[0]}")
    heard = seconds - load
    texts = {key: said[str(path)] for key, path in files.items()}
    return Decoded(texts, load, heard if heard > _NOISE * load else None, peak)


# runs a command, which ends with it; says on stderr what it took. A process's peak memory is at least that of the one
# that started it, which therefore is small
_MEASURE = """\
import json, resource, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
status = subprocess.call(sys.argv[1:])
took = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([took.ru_utime + took.ru_stime, took.ru_maxrss * 1024]), file=sys.stderr)
sys.exit(status)
"""


def _run(folder: Path, files: List[str], title: str, threads: int) -> Tuple[List[str], float, int]:
    """The lines that decode.py prints of the files, its CPU seconds, and its peak memory in bytes."""
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, sys.executable, str(folder / "decode.py"), *files]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        ) as process:
            known = set(files)
            said = (line.rstrip("\n") for line in process.stdout if line.partition("\t")[0] in known)
            try:
                lines = [*following(said, title, len(files))]
            except BaseException:  # a signal, too
                process.terminate()
                raise
        errors.seek(0)
        *messages, took = errors.read().strip().splitlines() or [""]
    if process.returncode:
        raise ExampleError(f"{title}: decode.py failed: {(messages or [took])[-1]}")
    seconds, peak = json.loads(took)
    return lines, seconds, peak
