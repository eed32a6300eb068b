"""Make long test sets: join consecutive utterances of a Kaldi-style data directory into long recordings."""

import argparse
import sys
from pathlib import Path
from typing import List, Optional

from espnet_rand.kaldi import DataError
from espnet_rand.longform.audio import AudioError, CommandError
from espnet_rand.longform.data import GROUPS, join


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="join_utterances", description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="with wav.scp, text, utt2spk, segments or not")
    parser.add_argument("--output_dir", type=Path, required=True, help="gets a data directory for each duration")
    parser.add_argument(
        "--durations", nargs="+", default=["30", "60", "120", "300", "600", "whole"], help="seconds, or whole groups"
    )
    parser.add_argument("--by", choices=GROUPS, default="recording", help="chapter: names up to the last '-'")
    parser.add_argument(
        "--pause", default="natural", help="between utterances: natural (as in the recording; segments), or seconds"
    )
    parser.add_argument("--pipes", action="store_true", help="run the commands ('COMMAND |') in wav.scp")
    return parser


def join_utterances(args: argparse.Namespace) -> None:
    """Make <output_dir>/<seconds>s and <output_dir>/whole.

    Raises:
        AudioError, DataError, OSError: see join
        ValueError: a duration or pause is no number, or too small
    """
    seconds = {f"{d}s" if d != "whole" else d: None if d == "whole" else _number(d, "duration") for d in args.durations}
    pause = None if args.pause == "natural" else _number(args.pause, "pause", least=0.0)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, duration in seconds.items():
        made = join(args.data_dir, args.output_dir / name, duration, args.by, pause, args.pipes)
        print(
            f"{args.output_dir / name}: {made['recordings']} recordings of {made['utterances']} utterances, "
            f"{made['seconds'] / 60:.1f} minutes; {made['left_out']} utterances left out",
            flush=True,
        )


def _number(text: str, what: str, least: float = 1.0) -> float:
    number = float(text)
    if not least <= number < float("inf"):
        raise ValueError(f"{what} {text}: {least:g} seconds or more")
    return number


def main(cmd: Optional[List[str]] = None) -> None:
    parser = get_parser()
    try:
        join_utterances(parser.parse_args(cmd))
    except CommandError as e:
        sys.exit(f"{parser.prog}: error: {e}. Mend: --pipes, to run the commands in wav.scp")
    except (AudioError, DataError, OSError, ValueError) as e:
        sys.exit(f"{parser.prog}: error: {e}")


if __name__ == "__main__":
    main()
