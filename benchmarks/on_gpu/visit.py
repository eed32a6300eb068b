"""Runs the steps of a visit one after another, each in a process and within a limit; see ../gpu.sh.

What has a result is not done again, what has an error is. A step that fails, or runs out of its time, stops no other.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from results import Results  # noqa: E402
from tables import write_tables  # noqa: E402

from espnet_rand.errors import UserError  # noqa: E402

SECONDS = 8 * 60  # of the whole visit


class Step(NamedTuple):
    """A part of the visit: its words for step.py, and its limit in seconds."""

    words: str
    limit: float


STEPS = {
    "cuda": [
        Step("tests tests/packing", 50),
        Step("training tiny bfloat16", 25),
        Step("decoding tiny", 30),
        Step("tests tests/layers", 60),
        Step("tests tests/quantizers", 60),
        Step("tests tests/calibration", 25),
        Step("training base bfloat16", 25),
        Step("training base float32", 30),
        Step("training tiny float32", 25),
        Step("decoding base", 30),
        Step("decoding large", 60),
    ],
    "cpu": [  # to try the script
        Step("tests tests/quantizers/test_granularity.py", 100),
        Step("training dry float32", 100),
        Step("decoding dry", 100),
    ],
}


class OtherDeviceError(UserError):
    """A folder has the results of another device."""


def visit(results: Results, device: str, steps: List[Step], seconds: float) -> None:
    """Run the steps that are not done, within seconds altogether. The tables are written after each."""
    ends = time.monotonic() + seconds
    for step in steps:
        if results.has("visit", step.words):
            continue
        limit = min(step.limit, ends - time.monotonic())
        begun = time.monotonic()
        error = run(results.folder, device, step, limit) if limit > 0 else "not begun: the visit's time was over"
        results.add("visit", step.words, error, seconds=time.monotonic() - begun, limit=step.limit)
        write_tables(results)
        print(f"{step.words}: {error.splitlines()[-1] if error else 'done'}", flush=True)


def run(folder: Path, device: str, step: Step, limit: float) -> str:
    """Run a step within a limit of seconds; return its error, or nothing."""
    command = [sys.executable, HERE / "step.py", *step.words.split(), "--device", device, "--output", folder]
    with (folder / "log.txt").open("a") as log:
        print(f"== {step.words}", file=log, flush=True)
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"ended after {limit:.0f} s, its limit"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code < 0:
        return f"died of {signal.Signals(-code).name}: see log.txt"
    return "" if code == 0 else "not all has a result: see Failures and log.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(STEPS), default="cuda", help="cpu: tiny sizes, to try the script")
    parser.add_argument("--output", type=Path, default=HERE.parent / "gpu", metavar="DIR")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    results = Results(args.output.resolve())
    there = results.of("device").get("device", {}).get("device")
    if there not in (None, args.device):
        raise OtherDeviceError(f"{args.output} has results of {there}. Fix: name another folder with --output")
    if there is None:
        results.add("device", "device", device=args.device)
    visit(results, args.device, STEPS[args.device], SECONDS)
    print(results.folder / "README.md")


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(f"gpu.sh: {e}")
