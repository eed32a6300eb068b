"""Runs a command. It imports nothing big: `espnet-rand link` needs no torch."""

import argparse
import errno
import functools
import os
import signal
import sys
from pathlib import Path
from typing import Callable, List, Optional

from espnet_rand.errors import UserError, refuse_options


def run(
    command: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, cmd: Optional[List[str]] = None
) -> None:
    """Run a command; an error that a user can fix ends it with one line and status 1.

    The folder of `--output`, or `--output_dir`, is made, and tried, before any work.
    """
    parser.error = functools.partial(refuse_options, parser)
    args = parser.parse_args(cmd)
    folder = None
    try:
        folder = args.output.parent if hasattr(args, "output") else getattr(args, "output_dir", None)
        if hasattr(args, "output") and args.output.is_dir():
            raise IsADirectoryError(f"--output: {args.output} is a directory. Fix: name what is not there yet")
        if folder is not None:
            _make(Path(folder))
        command(args)
    except (OSError, UserError) as e:
        sys.exit(f"{parser.prog}: error: {_said(e, folder)}")
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _make(folder: Path) -> None:
    """Make a folder, and see that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
        raise NotADirectoryError(f"--output: {e.filename or folder} is no directory. Fix: name another one") from None
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is not to be written to. Fix: name another one, or change who may write there")


def _said(error: Exception, folder: Optional[Path]) -> str:
    """The line that says an error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or folder}: no space is left on its disk. Fix: free some, or choose another disk"
    return str(error)
