"""What runs in each of the processes that decode a list; see workers for what starts them."""

import contextlib
import logging
import logging.handlers
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, NoReturn, Optional

import torch

from espnet_rand.errors import UserError
from espnet_rand.longform.decoding import LongForm
from espnet_rand.longform.jobs import Job, hear


class Ready(NamedTuple):
    """A process has its model."""


class Position(NamedTuple):
    """How far a recording is finished; see jobs.Follow."""

    key: str
    done: float
    length: float


def work(
    connection: Connection,
    quiet: bool,
    build: Callable[[], LongForm],
    belongs_to: Optional[Dict[str, Any]],
    threads: int,
    level: int,
    environment: Mapping[str, str],
) -> None:
    """Build the model, and decode what comes, until nothing more will come.

    The parent gets Ready, Positions, Outcomes and records of the log, or the error that ends the run.

    Args:
        connection: gives Jobs, and takes what the parent gets
        quiet: whether nothing but errors is logged while the model is built
        build, belongs_to: see workers.Workers
        threads, level, environment: number of threads, level of the log, variables of the environment
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, exit_by_signal)  # temporary files are removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()  # a fork server has that of its beginning
    os.environ.update(environment)
    line: Any = _Line(connection)
    send = line.put_nowait
    handler = logging.handlers.QueueHandler(line)
    first = max(level, logging.ERROR) if quiet else level
    logging.basicConfig(level=first, format="%(message)s", handlers=[handler], force=True)
    logging.captureWarnings(True)
    torch.set_num_threads(threads)
    try:
        long_form = build()
        logging.root.setLevel(level)
        send(Ready())
        for job in _jobs(connection):
            send(hear(long_form, job, belongs_to, lambda *position: send(Position(*position))))
    except (OSError, UserError) as e:
        with contextlib.suppress(OSError):
            send(e)


def _jobs(connection: Connection) -> Iterator[Job]:
    """Yield what the parent sends, until it closes the connection."""
    with contextlib.suppress(EOFError):
        while True:
            yield connection.recv()


def _end_with_parent() -> NoReturn:
    """Wait until the parent is dead, even if it was killed, and end this process."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


class _Line:
    """Sends to the parent, from any thread. The log takes it for a queue."""

    def __init__(self, connection: Connection):
        self._connection, self._lock = connection, threading.Lock()

    def put_nowait(self, message: Any) -> None:
        with self._lock:
            self._connection.send(message)


def exit_by_signal(number: int, _: Any) -> NoReturn:
    """End this process as a signal asks, with the status that shells know it by."""
    sys.exit(128 + number)
