"""Lets other Python processes register: those below `espnet-rand`, and those started after `espnet_rand.register()`."""

import functools
import logging
import multiprocessing
import os
import sys
from pathlib import Path

#: The folder of sitecustomize.py, which registers in every Python that is started with it on PYTHONPATH.
STARTUP = Path(__file__).resolve().parent / "startup"
# not logging.warning: it would set up the root logger, and ESPnet's own set-up would then do nothing
_log = logging.getLogger(__name__)


def with_startup(pythonpath: str) -> str:
    """Put STARTUP first in a PYTHONPATH, once. Other entries stay, empty ones too: they name the directory."""
    others = [entry for entry in pythonpath.split(os.pathsep) if entry != str(STARTUP)] if pythonpath else []
    return os.pathsep.join([str(STARTUP), *others])


def register_children() -> None:
    """Let each Python that this process starts from now on register by itself, when it imports ESPnet's tasks.

    multiprocessing, loky, dask and subprocess start such processes. A second call changes nothing. It
    raises nothing: it logs a warning, once, where processes of multiprocessing run already, and where
    Python's own options keep them from registering. It cannot know of processes on other machines, and
    of those that are started with another PYTHONPATH (`env=` of subprocess) or with Python's -E, -I or -S.
    """
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = with_startup(before)
    if os.environ["PYTHONPATH"] != before:
        _leave_forkserver()
        names = ", ".join(child.name for child in multiprocessing.active_children())
        if names:
            _warn(f"processes started before register() build float models: {names}. Start them after it")
    if sys.flags.ignore_environment or sys.flags.no_site:
        _warn(
            "Python was started with -E, -I or -S, and so are the processes of multiprocessing: "
            "they build float models. Leave the option out, or call espnet_rand.register() in each process"
        )


def _leave_forkserver() -> None:
    """Leave a running fork server, which would fork float processes, to its children: later ones get a new server.

    The old one ends with this process. A child of a fork server leaves it in the same way.
    """
    module = sys.modules.get("multiprocessing.forkserver")
    if module is not None:
        with module._forkserver._lock:
            module._forkserver._forkserver_pid = None


@functools.cache
def _warn(message: str) -> None:
    _log.warning(f"espnet_rand: {message}")
