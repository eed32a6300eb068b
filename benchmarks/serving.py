"""A list of recordings by one process on one thread, by one on several, and by several (`--nj`) on one thread each.

All are runs of asr_inference_long with the options that are given, round by round. Each is run once more when all is
decoded: what that takes, for imports, the model and the files, is taken off. The texts must be the same. Memory is the
sum of all processes' at its peak, in which what they share counts once. A list that is decoded in less than minutes
measures chance. Prints a table, and writes it beside this file.

    python benchmarks/serving.py [--processes 2] [--rounds 3] -- --asr_train_config exp/config.yaml \\
        --asr_model_file exp/w4.safetensors --data_path_and_name_and_type data/test/wav.scp,speech,sound
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple

import psutil
from rich.progress import track
from table import circumstances

from espnet_rand.atomic import write_text
from espnet_rand.errors import few
from espnet_rand.reporting import markdown

HERE = Path(__file__).resolve()
COMMAND = [sys.executable, "-m", "espnet_rand", "-m", "espnet_rand.bin.asr_inference_long", "--log_level", "ERROR"]
# seconds between two looks at the memory
_EVERY = 0.5


class Figures(NamedTuple):
    """A run: seconds of the whole command and of decoding alone, bytes at the peak, and the text."""

    command: float
    decoding: float
    peak: int
    text: str
    sound: float


def run(options: List[str], folder: Path, processes: int, threads: int) -> Figures:
    """Decode into an empty folder, and once more, when nothing is left to be decoded."""
    times, peaks = [], []
    for _ in range(2):
        begun, peak = time.perf_counter(), 0
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [*COMMAND, *options, "--output_dir", str(folder), "--nj", str(processes)]
        process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while psutil.wait_procs([process], _EVERY)[1]:
            peak = max(peak, memory(process))
        if process.returncode:
            sys.exit(f"asr_inference_long ended with status {process.returncode}")
        times.append(time.perf_counter() - begun)
        peaks.append(peak)
    report = map(json.loads, (folder / "report.jsonl").read_text().splitlines())
    text = (folder / "1best_recog/text").read_text()
    return Figures(times[0], times[0] - times[1], peaks[0], text, sum(line["seconds"] for line in report))


def memory(process: psutil.Process) -> int:
    """The bytes of a process and all below it; what several share is divided among them."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE.with_suffix(".md"))
    parser.add_argument("options", nargs="+", help="of asr_inference_long, behind --")
    args = parser.parse_args()
    count = args.processes
    systems = {
        "one process, 1 thread": (1, 1),
        f"one process, {count} threads": (1, count),
        f"--nj {count}, 1 thread each": (count, count),
    }
    found: Dict[str, List[Figures]] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory() as temporary:
        for number in track(range(args.rounds), "rounds"):
            for name, (processes, threads) in systems.items():
                folder = Path(temporary, f"{number}_{processes}_{threads}")
                found[name].append(run(args.options, folder, processes, threads))
    table = make_table(found)
    first = next(iter(found.values()))
    texts = [one.text for figures in found.values() for one in figures]
    differ = [name for name, figures in found.items() if any(one.text != texts[0] for one in figures)]
    text = (
        f"# Many recordings at once\n\n{circumstances(' '.join(['python', *sys.argv]))}; "
        f"{len(texts[0].splitlines())} recordings, {first[0].sound:.0f} s of sound, {args.rounds} rounds. "
        "Decoding: the command without what it takes when all is decoded. Times faster: than one process on one "
        f"thread in the same round (median). Texts: {f'other ones by {few(differ, 3)}' if differ else 'all the same'}."
        f"\n\n{table}"
    )
    write_text(args.output, text)
    print(text)


def make_table(found: Dict[str, List[Figures]]) -> str:
    """The figures of all systems in Markdown."""
    stock = next(iter(found.values()))
    rows = []
    for name, figures in found.items():
        row = [name]
        for what in ("decoding", "command"):
            row.append(f"{statistics.median(getattr(one, what) for one in figures):.1f}")
            faster = statistics.median(getattr(b, what) / getattr(a, what) for a, b in zip(figures, stock))
            row.append(f"{faster:.2f}")
        rows.append([*row, f"{max(one.peak for one in figures) / 1e6:.0f}"])
    return markdown(["", "decoding s", "times faster", "command s", "times faster", "peak MB"], rows)


if __name__ == "__main__":
    main()
