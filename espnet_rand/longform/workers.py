"""Shares the recordings of a list out among processes, each with the model and its share of the threads."""

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Callable, Deque, Dict, Iterator, List, NoReturn, Optional, Sequence

import torch

from espnet_rand.errors import UserError
from espnet_rand.longform.decoding import LongForm
from espnet_rand.longform.jobs import Follow, Job, Outcome, refuse
from espnet_rand.longform.worker import Position, Ready, exit_by_signal, work

# what every process imports: the fork server does so once, and they share its memory
_PRELOAD = ["espnet2.bin.asr_inference", "espnet_rand.longform.workers"]
# seconds for a process to end by itself, before it is killed
_PATIENCE = 10.0
_REMEDY = "Fix: the same command, which goes on, with fewer processes (--nj) if memory is short"


class WorkerError(UserError):
    """No process is left that could decode a list, in one line."""


class Workers:
    """Processes that decode recordings, the longest first. They end with the block, however it ends.

    The first builds its model alone: an error is said once, and what must be downloaded is there for the others. A
    process that dies takes one recording with it, which is refused; the others go on.

    Args:
        build: makes the model in each process; it must be picklable
        belongs_to: what the journals belong to besides the recording; see `of` of LongForm
        count: number of processes
        gpu: whether the model is on a GPU
    """

    def __init__(
        self, build: Callable[[], LongForm], belongs_to: Optional[Dict[str, Any]], count: int, gpu: bool = False
    ):
        # CUDA does not work in forks of what may have looked for it, and macOS has libraries that do not either
        forks = sys.platform == "linux" and not gpu
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(_PRELOAD)
        self._forks = forks
        threads = max(1, torch.get_num_threads() // count)
        self._arguments = (build, belongs_to, threads, logging.root.level, dict(os.environ))
        self._missing = count
        self._processes: Dict[Connection, BaseProcess] = {}
        self._idle: List[Connection] = []
        self._busy: Dict[Connection, Job] = {}
        self._how = ""  # the last one that died did
        logging.info(f"espnet_rand: {count} processes, threads of each: {threads}")

    def __enter__(self) -> "Workers":
        with contextlib.ExitStack() as stack:
            stack.enter_context(_ended_by_sigterm())
            resource_tracker.ensure_running()  # it lets Ctrl-C through when it has started
            if self._forks:
                with _without_ctrl_c():
                    forkserver.ensure_running()
            self._start()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for connection, process in self._processes.items():
            if kind is not None or connection not in self._idle:
                process.terminate()
            connection.close()  # what is idle ends by this
        for process in self._processes.values():
            _end(process)
        self._exit.close()

    def __call__(self, jobs: Sequence[Job], follow: Follow) -> Iterator[Outcome]:
        """Decode recordings; yield what became of each as soon as it is known.

        Raises:
            WorkerError: no process is left
            JournalError: see jobs.hear
            OSError, UserError: what `build` raises
        """
        waiting = deque(sorted(jobs, key=lambda job: math.inf if job.seconds is None else job.seconds, reverse=True))
        while waiting or self._busy:
            if not self._processes:
                left = f"Recordings that were not begun: {len(waiting)}"
                raise WorkerError(f"no process is left: the last one {self._how}. {left}. {_REMEDY}")
            self._hand_out(waiting)
            ready: List[Any] = wait([*self._processes])
            for connection in ready:
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    yield from self._bury(connection)
                    continue
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, Outcome):
                    del self._busy[connection]
                    self._idle.append(connection)
                    yield message
                elif isinstance(message, Ready):
                    self._idle.append(connection)
                    while self._missing:
                        self._start(quiet=True)
                elif isinstance(message, Position):
                    follow(*message)
                else:
                    logging.getLogger(message.name).handle(message)

    def _start(self, quiet: bool = False) -> None:
        """Start a process; a quiet one logs nothing but errors while it builds the model."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, quiet, *self._arguments), daemon=True)
        with contextlib.nullcontext() if self._forks else _without_ctrl_c():  # a fork hears what its server hears
            process.start()
        theirs.close()
        self._processes[ours] = process
        self._missing -= 1

    def _hand_out(self, waiting: Deque[Job]) -> None:
        """Give each idle process a recording."""
        while waiting and self._idle:
            connection = self._idle.pop()
            self._busy[connection] = waiting.popleft()
            with contextlib.suppress(OSError):  # it is dead, which is noticed next
                connection.send(self._busy[connection])

    def _bury(self, connection: Connection) -> Iterator[Outcome]:
        """Let a dead process go, and refuse its recording."""
        process = self._processes.pop(connection)
        connection.close()
        _end(process)
        self._how = _ending(process.exitcode)
        if connection in self._idle:
            self._idle.remove(connection)
        if job := self._busy.pop(connection, None):
            yield refuse(job.key, f"its process {self._how}. {_REMEDY}")
        else:
            logging.warning(f"espnet_rand: a process {self._how} before it began a recording")


def _ending(code: int) -> str:
    """How a process ended, by its exit code."""
    number = -code if code < 0 else code - 128
    if number not in {*signal.Signals}:
        return f"ended with status {code}"
    name = signal.Signals(number).name
    return f"was killed ({name}{', as it happens where memory runs out' if name == 'SIGKILL' else ''})"


def _end(process: BaseProcess) -> None:
    """Wait for a process that is about to end; kill it if it does not."""
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a block as Ctrl-C does, with the status that shells know it by."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread may set what signals do
        return

    def stop(number: int, frame: Any) -> NoReturn:
        logging.warning("espnet_rand: stopped by SIGTERM: the same command goes on")
        exit_by_signal(number, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start processes that a terminal's Ctrl-C does not reach: it ends this process, which ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
