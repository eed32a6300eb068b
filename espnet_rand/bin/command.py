"""What the commands on packed files share."""

import argparse
import os
import sys
from pathlib import Path
from typing import Callable

from espnet_rand.layers import QuantizationError
from espnet_rand.packing import PackedFileError, PackedModel, report, write
from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit.fitting import PretrainedError


def say(packed: PackedModel, path: Path) -> None:
    """Print what a packed file holds, and its size."""
    print(f"{report(packed)}\n{path}: {path.stat().st_size:,} bytes")


def save(packed: PackedModel, path: Path) -> None:
    """Write a packed file, and say what it holds."""
    write(path, packed)
    say(packed, path)


def run(command: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, cmd=None) -> None:
    """Run a command; what a user can mend ends it with one line and status 1.

    The folder of `--output`, or `--output_dir`, is made, and tried, before any work.
    """
    args = parser.parse_args(cmd)
    try:
        folder = args.output.parent if hasattr(args, "output") else getattr(args, "output_dir", None)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(f"{folder} is not to be written to")
        command(args)
    except (OSError, PackedFileError, PretrainedError, QuantizationError, OptionError) as e:
        print(f"{parser.prog}: error: {e}", file=sys.stderr)
        sys.exit(1)
