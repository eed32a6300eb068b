#!/usr/bin/env python3
"""Run the commands of a list, a few at a time, and show their progress.

Standard input has one job a line, in four columns separated by tabs:

    log      the file for its output, e.g. exp/float/train.log
    steps    how many decoded utterances, batches or epochs to expect; 0: not known.
             (A training says itself how many epochs it has, once it runs)
    after    the logs of the jobs that must be finished first, separated by spaces, or -
    command  run by bash

The progress is a bar for each job and one for all, with the time that is left; where there is no terminal, a line a
minute. The time left of all takes the jobs' steps to be alike.
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
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

EPOCH = re.compile(r"(\d+)/(\d+)epoch started")
#: What ESPnet logs of a batch of statistics.
NITER = "Niter: "
#: Seconds between two lines, where there is no terminal.
EVERY = 60


class Pace:
    """How fast steps are done, from the first time that their number is noted."""

    def __init__(self):
        self.first = self.last = None

    def note(self, steps: int) -> None:
        """Note how many steps are done now."""
        if self.last is None or steps != self.last[1]:
            self.last = (time.time(), steps)
            self.first = self.first or self.last

    def left(self, steps: int) -> str:
        """Say how long `steps` more take; empty if that is not known yet."""
        if self.first == self.last:
            return ""
        (began, at_first), (moved, at_last) = self.first, self.last
        seconds = (moved - began) / (at_last - at_first) * steps - (time.time() - moved)
        return f"{duration(max(0, seconds))} left"


def duration(seconds: float) -> str:
    """Write a duration: 7 s, 12 min, 1 h 20 min."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@dataclass
class Job:
    """One command with its log file, and what is known of its progress."""

    log: Path
    steps: int
    after: str
    command: str
    completed: int = 0
    before: int = 0  # completed by an earlier run
    process: subprocess.Popen | None = None
    pace: Pace = field(default_factory=Pace)
    step: str = NITER  # what its log says of each step

    @classmethod
    def parse(cls, line: str, step: str = ""):
        """Read a job from its line of the list; `step` is what its log says of each step."""
        log, steps, after, command = line.rstrip("\n").split("\t")
        return cls(Path(log), int(steps), after, command, step=f"{NITER}|{step}" if step else NITER)

    @property
    def done(self) -> Path:
        """The file that marks the job as finished."""
        return self.log.with_suffix(".done")

    def of_another_command(self) -> bool:
        """Whether a finished job had another command. (The file is empty where its command was not noted.)"""
        return self.done.read_text(encoding="utf-8") not in ("", self.command)

    def waits_for(self) -> list:
        """The logs of the jobs that must be finished first, and are not."""
        return [log for log in self.after.split() if log != "-" and not Path(log).with_suffix(".done").exists()]

    def start(self, threads: int):
        """Start the command, with so many threads."""
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

    def read_log(self):
        """Read what is new in the log."""
        for line in self.reader:
            if epoch := EPOCH.search(line):
                self.completed, self.steps = int(epoch[1]) - 1, int(epoch[2])
                self.before = self.completed if self.pace.first is None else self.before
            elif re.search(self.step, line):
                self.completed += 1
            else:
                continue
            self.pace.note(self.completed)

    def finish(self):
        """Mark the job as finished."""
        self.done.write_text(self.command, encoding="utf-8")
        self.completed = self.size

    @property
    def size(self) -> int:
        """How many steps the job has; 1 if they are not known."""
        return self.steps or 1

    @property
    def remaining(self) -> int:
        """How many steps are left."""
        return max(0, self.size - self.completed)

    def __str__(self) -> str:
        """Describe a job that runs: its log, its share and the time left."""
        share = f"{self.completed / self.steps:.0%}" if self.steps else "begun"
        left = self.pace.left(self.remaining)
        return f"{self.log} ({share}, {left})" if left else f"{self.log} ({share})"

    def stop(self):
        """End the command and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


class Stage:
    """The jobs of a list: those that wait, those that run, and how far all of them are."""

    def __init__(self, jobs: list, title: str):
        self.jobs, self.title = jobs, title
        self.waiting = [job for job in jobs if not job.done.exists()]
        self.begun, self.running = [], []
        self.pace = Pace()
        self.pace.note(0)

    def start(self, at_a_time: int) -> bool:
        """Start the jobs that can be; return whether anything runs."""
        ready = [job for job in self.waiting if not job.waits_for()]
        # A job that has the machine for itself has all its cores.
        abreast = min(at_a_time, len(ready) + len(self.running))
        for job in ready[: at_a_time - len(self.running)]:
            self.waiting.remove(job)
            job.start(max(1, (os.cpu_count() or 1) // abreast))
            self.begun.append(job)
            self.running.append(job)
        return bool(self.running)

    def check(self) -> tuple[list, Job | None]:
        """Read the logs of what runs; return what is finished since the last call, and a job that failed, if any."""
        finished = []
        for job in list(self.running):
            code = job.process.poll()
            job.read_log()
            if code is None:
                continue
            self.running.remove(job)
            if code != 0:
                return finished, job
            job.finish()
            finished.append(job)
        self.pace.note(sum(job.completed - job.before for job in self.begun))
        return finished, None

    @property
    def finished(self) -> int:
        """How many jobs are finished."""
        return len(self.jobs) - len(self.waiting) - len(self.running)

    @property
    def left(self) -> str:
        """How long all jobs still take; empty if that is not known yet."""
        return self.pace.left(sum(job.remaining for job in [*self.waiting, *self.running]))

    def __str__(self) -> str:
        left = f", about {self.left}" if self.left else ""
        now = ", ".join(map(str, self.running))
        return f"{self.title}: {self.finished} of {len(self.jobs)} finished{left}. Now: {now}"


class Display:
    """Bars on a terminal; else a line now and then."""

    def __init__(self, stage: Stage):
        self.stage, self.console, self.said = stage, Console(soft_wrap=True), time.time()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.whole = self.bars.add_task(stage.title, total=len(stage.jobs), left="")
        self.tasks = {}

    def say(self, text: str) -> None:
        """Print a line, above the bars."""
        self.console.print(f"{self.stage.title}: {text}")

    def say_what_is_there(self) -> None:
        """Say which jobs were finished by an earlier run, and which of these had another command."""
        there = [job for job in self.stage.jobs if job.done.exists()]
        if there:
            self.say(f"{len(there)} of {len(self.stage.jobs)} are there")
        for job in there:
            if job.of_another_command():
                # a training without its mark would go on from its last epoch
                mark = job.log.parent if job.log.stem == "train" else job.done
                self.say(f"{job.log} is of another command, and is kept. To run it again, remove {mark}")

    def update(self, finished: list) -> None:
        """Show how far the jobs are, and say which are finished."""
        stage = self.stage
        for job in finished:
            self.bars.remove_task(self.tasks.pop(job.log))
            self.say(f"{job.log} ({time.time() - job.started:.0f} s)")
        for job in stage.running:
            if job.log not in self.tasks:
                self.tasks[job.log] = self.bars.add_task(f"  {job.log}", total=None, left="")
            left = job.pace.left(job.remaining)
            self.bars.update(self.tasks[job.log], completed=job.completed, total=job.steps or None, left=left)
        self.bars.update(self.whole, completed=stage.finished, left=stage.left)
        if not self.console.is_terminal and stage.running and time.time() - self.said >= EVERY:
            self.said = time.time()
            self.console.print(str(stage))


def run(jobs: list, at_a_time: int, title: str) -> Job | None:
    """Run all jobs; return the one that failed, if any."""
    stage = Stage(jobs, title)
    display = Display(stage)
    display.say_what_is_there()
    with display.bars:
        try:
            while stage.waiting or stage.running:
                if not stage.start(at_a_time):
                    missing = stage.waiting[0]
                    missing.log.parent.mkdir(parents=True, exist_ok=True)
                    missing.log.write_text(f"{missing.waits_for()[0]} is not finished\n")
                    return missing
                display.update([])
                time.sleep(0.2)
                finished, failed = stage.check()
                display.update(finished)
                if failed:
                    return failed
        finally:
            for job in stage.running:
                job.stop()
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nj", type=int, default=1, help="jobs at a time")
    parser.add_argument("--title", default="jobs")
    parser.add_argument("--step", default="", help="what logs say of each step, a regular expression")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    jobs = [Job.parse(line, args.step) for line in sys.stdin if line.strip()]
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
