"""Registers once ESPnet is imported, in each Python that starts below `espnet-rand` or after `register()`.

The launcher and espnet_rand.processes put this folder on PYTHONPATH, and Python runs this module when it starts. So
every Python that is started then (recipe scripts, spawned workers, Lightning's ranks, dask workers) quantizes. Errors
that a user can fix end a program there with one line.
It imports nothing big: espnet_rand and torch are loaded only where ESPnet's tasks are.
"""

import functools
import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _register() -> None:
    # which registers by itself; espnet_rand must not be the one that imports it
    importlib.import_module("espnet2.tasks.abs_task")
    import espnet_rand

    espnet_rand.register()


def _prepare_whisper() -> None:
    from espnet_rand.whisper_tokens import prepare

    prepare()


# what is done once a module has run
_WATCHED = {
    "espnet2.tasks.abs_task": _register,
    "espnet3.systems.base.training": _register,  # ESPnet3's trainer, which calls the tasks
    "whisper": _prepare_whisper,  # which a program of ESPnet's uses without any task
}


class _ActAfterImport:
    """Finds the modules of _WATCHED as usual, and does what is there after they have run."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in _WATCHED:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:  # a folder of this name has none
            execute = spec.loader.exec_module

            def execute_and_act(module):
                execute(module)
                _WATCHED[name]()

            spec.loader.exec_module = execute_and_act
        return spec


class _FindPackage:
    """Finds this espnet_rand where nothing else finds one: below a script that has it on sys.path only."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return PathFinder.find_spec(name, [str(_HERE.parent.parent)]) if name == "espnet_rand" else None


def _run_shadowed() -> None:
    """Run the next sitecustomize module on the path, which this one hides, if there is one."""
    others = list(sys.path)
    while any(Path(entry or ".").resolve() == _HERE for entry in others):
        del others[0]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _say(original, kind, error, trace):
    """Stand in for `sys.excepthook`, `original`: an error that a user can fix is one line, without a traceback."""
    errors = sys.modules.get("espnet_rand.errors")
    if errors is None:
        return original(kind, error, trace)
    errors.say("espnet-rand", original, kind, error, trace)


sys.meta_path.insert(0, _ActAfterImport)
sys.meta_path.append(_FindPackage)
_run_shadowed()
sys.excepthook = functools.partial(_say, sys.excepthook)
