#!/usr/bin/env python3
"""Run the commands of a list, a few at a time, and show their progress.

Standard input has one job a line, in four columns separated by tabs:

    log      the file for its output, e.g. exp/float/train.log
    steps    how many decoded utterances or batches to expect; 0 for training,
             which says itself how many epochs there are
    after    the log of the job that must be finished first, or -
    command  run by bash

A finished job leaves train.done beside train.log, with its command, and is skipped from then on; if the command is
another by now, this is said.
When a job fails, the end of its log is printed and the others are stopped.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

EPOCH = re.compile(r"(\d+)/(\d+)epoch started")
STEP = re.compile(r"speech length: |Niter: ")


@dataclass
class Job:
    """One command with its log file, and what is known of its progress."""

    log: Path
    steps: int
    after: str
    command: str
    completed: int = 0
    process: subprocess.Popen | None = None

    @classmethod
    def parse(cls, line: str):
        log, steps, after, command = line.rstrip("\n").split("\t")
        return cls(Path(log), int(steps), after, command)

    @property
    def done(self) -> Path:
        return self.log.with_suffix(".done")

    def of_another_command(self) -> bool:
        """Of a finished job. (The file is empty where its command was not noted.)"""
        return self.done.read_text(encoding="utf-8") not in ("", self.command)

    def ready(self) -> bool:
        return self.after == "-" or Path(self.after).with_suffix(".done").exists()

    def start(self, threads: int):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"# {self.command}\n")
        self.reader = self.log.open(encoding="utf-8", errors="replace")
        self.reader.seek(0, os.SEEK_END)
        self.started = time.time()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Threads that spin while they wait are very slow on a machine that is busy otherwise.
                env={"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ},
                start_new_session=True,  # so that stop() reaches its children
            )

    def follow(self):
        """Read what is new in the log."""
        for line in self.reader:
            if epoch := EPOCH.search(line):
                self.completed, self.steps = int(epoch[1]) - 1, int(epoch[2])
            elif STEP.search(line):
                self.completed += 1

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


def run(jobs: list, at_a_time: int, title: str) -> Job | None:
    """Run all jobs; return the one that failed, if any."""
    console = Console(soft_wrap=True)
    waiting = [job for job in jobs if not job.done.exists()]
    running = {}
    if len(waiting) < len(jobs):
        console.print(f"{title}: {len(jobs) - len(waiting)} of {len(jobs)} are there")
    for job in jobs:
        if job.done.exists() and job.of_another_command():
            # a training without its mark would go on from its last epoch
            mark = job.log.parent if job.log.stem == "train" else job.done
            console.print(f"{title}: {job.log} is of another command, and is kept. To run it again, remove {mark}")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        whole = progress.add_task(title, total=len(jobs))
        try:
            while waiting or running:
                ready = [job for job in waiting if job.ready()]
                if not ready and not running:
                    missing = waiting[0]
                    missing.log.parent.mkdir(parents=True, exist_ok=True)
                    missing.log.write_text(f"{missing.after} is not finished\n")
                    return missing
                # A job that has the machine for itself has all its cores.
                abreast = min(at_a_time, len(ready) + len(running))
                for job in ready[: at_a_time - len(running)]:
                    waiting.remove(job)
                    job.start(max(1, (os.cpu_count() or 1) // abreast))
                    running[progress.add_task(f"  {job.log}", total=None)] = job
                time.sleep(0.2)
                for task, job in list(running.items()):
                    code = job.process.poll()
                    job.follow()
                    progress.update(task, completed=job.completed, total=job.steps or None)
                    if code is None:
                        continue
                    del running[task]
                    progress.remove_task(task)
                    if code != 0:
                        return job
                    job.done.write_text(job.command, encoding="utf-8")
                    seconds = time.time() - job.started
                    console.print(f"{title}: {job.log} ({seconds:.0f} s)")
                progress.update(whole, completed=len(jobs) - len(waiting) - len(running))
        finally:
            for job in running.values():
                job.stop()
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nj", type=int, default=1, help="jobs at a time")
    parser.add_argument("--title", default="jobs")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    jobs = [Job.parse(line) for line in sys.stdin if line.strip()]
    try:
        failed = run(jobs, args.nj, args.title)
    except KeyboardInterrupt:
        sys.exit(f"{args.title}: interrupted; the same command goes on from here")
    if failed:
        lines = failed.log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(*lines[-30:], sep="\n", file=sys.stderr)
        sys.exit(f"{args.title}: failed, see {failed.log}")


if __name__ == "__main__":
    main()
