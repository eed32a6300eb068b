"""Calibrate a checkpoint, write it for a runtime, and check there that it says the same: one folder to ship.

  espnet-rand ship exp/asr/valid.acc.ave.pth --target whisper_cpp --data data/train/wav.scp --output shipped

No training: minutes on a CPU. The folder has the model, its tokens, decode.py, README.md and report.json: size, memory,
speed, and how many words are those of the float model. A model that was trained with a quantizer, and a packed file, is
not calibrated. The exit status is 3 where fewer words agree than --min_agreement.
"""

import argparse
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from espnet_rand.bin.command import run
from espnet_rand.errors import UserError
from espnet_rand.shipping import TARGETS, Order, ship
from espnet_rand.toolkit import options
from espnet_rand.toolkit.commands.validation import positive

_DISAGREES = 3
# whose Speech2Text decodes, see espnet_rand.toolkit.recognition
_TASKS = ("asr", "asr_transducer")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ship", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a checkpoint, an archive or directory or tag, or a packed file")
    parser.add_argument("--target", required=True, choices=[*TARGETS], help="the runtime")
    parser.add_argument(
        "--data",
        required=True,
        help="wav.scp, or wav.scp,text: some recordings are for the calibration, others for the check",
    )
    parser.add_argument(
        "--output", dest="output_dir", type=Path, required=True, help="the folder; an earlier one is replaced"
    )
    parser.add_argument("--task", default="asr", choices=_TASKS, help="of ESPnet (default: asr)")
    parser.add_argument("--train_config", type=Path, help="default: the one that comes with the model")
    options.add_arguments(parser)
    parser.add_argument(
        "--num_calibration", type=positive, default=32, help="recordings to calibrate on, at most (default: 32)"
    )
    parser.add_argument(
        "--num_check", type=positive, default=20, help="other recordings to check, at most (default: 20)"
    )
    parser.add_argument(
        "--longest",
        type=float,
        help="seconds of the longest recording; for onnx and sherpa_onnx, whose files are smaller with it",
    )
    parser.add_argument("--min_agreement", type=_percent, default=95.0, help="percent of words (default: 95)")
    return parser


def _percent(text: str) -> float:
    """Read a number from 0 to 100."""
    with suppress(ValueError):
        if 0 <= float(text) <= 100:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not allowed, it must be a number from 0 to 100")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal that ends the program end what it started, too, and remove what is unfinished."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def main(cmd=None) -> None:
    reports = []
    with _ended_by_signals():
        run(lambda args: reports.append(_ship(args)), get_parser(), cmd)
    if not reports[0].agrees:
        sys.exit(_DISAGREES)


def _ship(args: argparse.Namespace):
    lists = [Path(path) for path in args.data.split(",")]
    if len(lists) > 2:
        raise UserError(f"--data: {args.data}: wav.scp, or wav.scp,text")
    report = ship(
        Order(
            args.model,
            args.target,
            lists,
            args.output_dir,
            args.task,
            args.train_config,
            options.resolve(args),
            args.num_calibration,
            args.num_check,
            args.min_agreement,
            args.longest,
        )
    )
    print(f"{report.table()}{report.summary()}\n{args.output_dir}")
    for line in report.advice:
        print(line)
    return report


if __name__ == "__main__":
    main()
