"""Make long test sets: join consecutive utterances of a Kaldi-style data directory into long recordings."""

import argparse
from pathlib import Path
from typing import List, Optional

from espnet_rand.bin.command import run
from espnet_rand.longform.audio import CommandError
from espnet_rand.longform.long_test_sets import GROUPS, join
from espnet_rand.options import OptionError


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="join_utterances", description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="with wav.scp, text, utt2spk, segments or not")
    parser.add_argument("--output_dir", type=Path, required=True, help="gets a data directory for each duration")
    parser.add_argument(
        "--durations",
        nargs="+",
        default=["30", "60", "120", "300", "600", "whole"],
        help="seconds, whole (groups), or utterance (each by itself, to compare with)",
    )
    parser.add_argument("--by", choices=GROUPS, default="recording", help="chapter: names up to the last '-'")
    parser.add_argument(
        "--pause", default="natural", help="between utterances: natural (as in the recording; segments), or seconds"
    )
    parser.add_argument("--pipes", action="store_true", help="run the commands ('COMMAND |') in wav.scp")
    return parser


def join_utterances(args: argparse.Namespace) -> None:
    """Make <output_dir>/<seconds>s, <output_dir>/whole and <output_dir>/utterance.

    Raises:
        AudioError, DataError, OSError: see join
        OptionError: a duration or pause is no number, or too small
    """
    named = {"whole": None, "utterance": 0.0}
    seconds = {}
    for duration in args.durations:
        if duration in named:
            seconds[duration] = named[duration]
        else:
            seconds[f"{duration}s"] = _number("durations", duration, 1.0)
    pause = None if args.pause == "natural" else _number("pause", args.pause, 0.0)
    for name, duration in seconds.items():
        try:
            made = join(args.data_dir, args.output_dir / name, duration, args.by, pause, args.pipes)
        except CommandError as e:
            raise CommandError(f"{e}. Fix: --pipes, to run the commands in wav.scp") from None
        print(
            f"{args.output_dir / name}: {made['recordings']} recordings of {made['utterances']} utterances, "
            f"{made['seconds'] / 60:.1f} minutes; {made['left_out']} utterances left out",
            flush=True,
        )


def _number(option: str, text: str, least: float) -> float:
    """Read a number of seconds that is not less than `least`."""
    try:
        if least <= float(text) < float("inf"):
            return float(text)
    except ValueError:
        pass
    raise OptionError(f"--{option}: {text} is not allowed, it must be {least:g} seconds or more")


def main(cmd: Optional[List[str]] = None) -> None:
    run(join_utterances, get_parser(), cmd)


if __name__ == "__main__":
    main()
