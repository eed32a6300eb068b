"""What all commands share. It imports nothing big: `espnet-rand link` needs no torch."""

import argparse
import errno
import functools
import os
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
            Path(folder).mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(f"{folder} is not to be written to")
        command(args)
    except (OSError, UserError) as e:
        sys.exit(f"{parser.prog}: error: {_said(e, folder)}")


def _said(error: Exception, folder: Optional[Path]) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or folder}: no space is left on its disk. Fix: free some, or choose another disk"
    return str(error)
