"""The results of a visit: a line for each in results.jsonl of one folder."""

import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lines import append, finished  # noqa: E402

from espnet_rand.errors import UserError  # noqa: E402

Line = Dict[str, Any]


class NotInstalled(UserError):
    """What is to be measured is not installed."""


class Results:
    """Lines of `step`, `name`, `error` (a traceback; empty where there is a result) and what was measured."""

    def __init__(self, folder: Path):
        self.folder, self._path = folder, folder / "results.jsonl"

    def add(self, step: str, name: str, error: str = "", **measured: Any) -> None:
        """Add a line; it replaces one of the same step and name."""
        append(self._path, {"step": step, "name": name, "error": error, **measured})

    def of(self, step: str) -> Dict[str, Line]:
        """The lines of a step, the latest of each name."""
        return {line["name"]: line for line in finished(self._path) if line["step"] == step}

    def has(self, step: str, name: str) -> bool:
        """Whether there is a line without an error."""
        line = self.of(step).get(name)
        return line is not None and not line["error"]

    @contextmanager
    def keeping_errors(self, step: str, name: str) -> Iterator[None]:
        """Write down an error of the block, with its traceback, and go on behind the block."""
        try:
            yield
        except NotInstalled as e:
            self.add(step, name, f"not measured: {e}")
        except Exception:
            self.add(step, name, traceback.format_exc())
