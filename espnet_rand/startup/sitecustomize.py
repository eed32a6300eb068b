"""Python runs this when it starts below `espnet-rand`: ESPnet is registered with once it is imported.

The launcher puts this folder on PYTHONPATH, so that not only its own process but every Python
that it starts (recipe scripts, spawned workers, Lightning's ranks, dask workers) quantizes.
There, errors that a user can mend end a program with one line.
It imports nothing big: espnet_rand and torch are loaded only where ESPnet's tasks are.
"""

import functools
import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path

# the second: ESPnet3's trainer, which calls the tasks
_WATCHED = {"espnet2.tasks.abs_task", "espnet3.systems.base.training"}


class _RegisterAfterImport:
    """Finds what is watched as usual, and calls `espnet_rand.register()` after it has run."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in _WATCHED:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                # which registers by itself; espnet_rand must not be the one that imports it
                importlib.import_module("espnet2.tasks.abs_task")
                import espnet_rand

                espnet_rand.register()

            spec.loader.exec_module = execute_and_register
        return spec


def _run_shadowed() -> None:
    """Run the sitecustomize module that this one hides, if there is one."""
    here = Path(__file__).resolve().parent
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _say(original, kind, error, trace):
    """`sys.excepthook`, which was `original`: what a user can mend is one line, without a traceback."""
    errors = sys.modules.get("espnet_rand.errors")
    if errors is None or not issubclass(kind, errors.UserError):
        return original(kind, error, trace)
    print(f"espnet-rand: error: {error}", file=sys.stderr)


sys.meta_path.insert(0, _RegisterAfterImport)
_run_shadowed()
sys.excepthook = functools.partial(_say, sys.excepthook)
