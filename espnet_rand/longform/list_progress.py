"""Says how much of a list is decoded, in seconds of sound, and how long the rest takes."""

import logging
import math
import time
from datetime import timedelta
from typing import Any, Dict, Mapping, Optional

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

# seconds between two lines of the log
_EVERY = 60.0


class ListProgress:
    """One bar for a whole list, on a terminal. Else the log has a line a minute.

    What an earlier run heard counts as done, but not for the speed. A recording of unknown length counts as long as the
    others are on average.

    Args:
        seconds: the length of each recording by its key; None: not known
        console: where the bar is shown, if it is a terminal
    """

    def __init__(self, seconds: Mapping[str, Optional[float]], console: Console):
        self._seconds = {key: length for key, length in seconds.items() if length is not None}
        self._known = sum(self._seconds.values())
        self._count = len(seconds)
        self._positions: Dict[str, float] = {}
        self._done = self._heard = 0.0
        self._finished = 0
        self._begun: Optional[float] = None
        self._said = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[seconds]}"))
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(f"0 of {self._count} recordings", total=None, seconds="")

    def __enter__(self) -> "ListProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def follow(self, key: str, done: float, length: float) -> None:
        """Note that a recording is finished up to a time, in seconds, and its length. The first time is the start's."""
        if self._begun is None:
            self._begun = time.monotonic()
        if key in self._positions:
            self._heard += done - self._positions[key]
        self._move(key, done, length)
        self._show()

    def finish(self, key: str, decoded: bool) -> None:
        """Note that a recording is decoded, or refused: then nothing is left of it."""
        position = self._positions.get(key, 0.0)
        length = self._seconds.get(key, position) if decoded else position
        self._move(key, length, length)
        self._finished += 1
        self._show()

    def _move(self, key: str, done: float, length: float) -> None:
        """Set the position in a recording, and its length."""
        self._done += done - self._positions.get(key, 0.0)
        self._known += length - self._seconds.get(key, 0.0)
        self._positions[key], self._seconds[key] = done, length

    def _show(self) -> None:
        """Show it on the bar, or, once a minute, in the log."""
        total = self._known * self._count / len(self._seconds)
        recordings = f"{self._finished} of {self._count} recordings"
        seconds = f"{self._done:.0f} of {total:.0f} s"
        left = self._left(total)
        if not self._bar.disable:
            seconds += "" if left is None else f", {timedelta(seconds=round(left))} left"
            self._bar.update(self._task, description=recordings, completed=self._done, total=total, seconds=seconds)
        elif time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            seconds += "" if left is None else f", about {math.ceil(left / 60)} min left"
            logging.info(f"{recordings}, {seconds}")

    def _left(self, total: float) -> Optional[float]:
        """The seconds that the rest takes at this run's speed; None: nothing was heard yet."""
        if self._begun is None or not self._heard > 0:
            return None
        return (time.monotonic() - self._begun) / self._heard * max(0.0, total - self._done)
