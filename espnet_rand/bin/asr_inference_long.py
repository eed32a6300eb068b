"""Decode long recordings: whole, in windows joined on what both saw, or in stretches with speech.

Takes the options of espnet2.bin.asr_inference (or, with --task asr_transducer, asr_transducer_inference). Once all
recordings are decoded, it writes to --output_dir

  1best_recog/text      Kaldi's text
  1best_recog/ctm       words with times
  srt/ vtt/ json/       a file for each recording
  report.jsonl          a line for each recording: decoded, or refused and why
  windows/              what is finished: the same command goes on from there

--nj 4 decodes four recordings at a time. The files are the same.

--html adds transcripts.html: each recording to play, and its words, which play from where they are said. With --compare
DIR, the --output_dir of another run, the words that differ are marked.

Where there are several lists (--data_path_and_name_and_type more than once), each has a folder of its own in
--output_dir, with the name of the folder that the list is in.
"""

import argparse
import functools
import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import ContextManager, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from rich.console import Console
from rich.logging import RichHandler

import espnet_rand
from espnet_rand.bin.command import run
from espnet_rand.errors import UserError
from espnet_rand.kaldi import DataError
from espnet_rand.longform import LongForm, comparison, decode_list, finished, page
from espnet_rand.longform.decoding import MODES
from espnet_rand.longform.jobs import Hearing, one_by_one
from espnet_rand.longform.workers import Workers
from espnet_rand.options import OptionError, integer
from espnet_rand.toolkit import recognition


def get_parser(task: str = "asr") -> argparse.ArgumentParser:
    parser = recognition.get_parser(task)
    parser.prog = "asr_inference_long"
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("Long recordings")
    group.add_argument("--task", choices=recognition.TASKS, default="asr")
    group.add_argument("--mode", choices=MODES, default="windows", help="vad needs silero-vad (pip)")
    group.add_argument("--window", type=float, help="seconds; default: 30, or 20 of Whisper")
    group.add_argument("--overlap", type=float, help="seconds that two windows share; default: a fifth of a window")
    group.add_argument("--nj", type=int, default=1, help="processes, each with the model and its share of the threads")
    group.add_argument("--html", action="store_true", help="write transcripts.html, too")
    group.add_argument("--compare", type=Path, metavar="DIR", help="with --html: the --output_dir of another run")
    return parser


def asr_inference_long(args: argparse.Namespace) -> None:
    """Decode all recordings.

    Raises:
        UserError: some recordings were refused
        DataError, OptionError, PackedFileError, VadError ...: nothing can be decoded
        JournalError: finished windows in --output_dir are of other options; they stay as they are
        WorkerError: all processes were killed
    """
    integer(1)("--nj", args.nj)
    console = Console(stderr=True)
    _log(args.log_level, console)
    espnet_rand.register()
    if args.key_file is not None and len(args.data_path_and_name_and_type) > 1:
        raise DataError("--key_file: it is for one list, not for several: decode them apart")
    lists = {
        directory: decode_list.read_entries(data, args.key_file)
        for directory, data in _directories(args.output_dir, args.data_path_and_name_and_type).items()
    }
    others = _others(args, {directory: entries for directory, (entries, _) in lists.items()})
    for directory in lists:
        with decode_list.locked(directory):
            pass  # another run at work there is noticed before the model is built
    refused = []
    with _hearing(args, max(len(entries) for entries, _ in lists.values())) as hearing:
        for directory, (entries, pipes) in lists.items():
            if number := decode_list.decode(hearing, entries, directory, pipes, console):
                refused.append(f"{number} recordings were refused: see {directory}/report.jsonl")
    for directory, (entries, _) in lists.items() if args.html else ():
        try:
            page.write_page(directory, entries, others.get(directory))
        except OSError as e:
            refused.append(f"{e.filename}: not to be written: {e.strerror}. Fix: mend that, and give the same command")
    if refused:
        raise UserError("; ".join(refused))


def _others(args: argparse.Namespace, keys: Mapping[Path, Iterable[str]]) -> Dict[Path, Path]:
    """The directory of the run to compare with, for that of each list; empty: there is no such run.

    Args:
        keys: of each list, by its directory

    Raises:
        OptionError, NotInstalledError, FinishedError: a page that compares cannot be written
    """
    if args.compare is None:
        return {}
    if not args.html:
        raise OptionError("--compare: the words that differ are marked in a page. Fix: add --html")
    comparison.check()
    others = {mine: args.compare / mine.relative_to(args.output_dir) for mine in keys}
    for mine, other in others.items():
        if other.resolve() == mine.resolve():
            raise OptionError(f"--compare: {other} is this run's own. Fix: name the --output_dir of another run")
        if not finished.check(other, keys[mine]):
            raise OptionError(f"--compare: {other} has none of these recordings. Fix: name a run on the same list")
    return others


def _hearing(args: argparse.Namespace, recordings: int) -> ContextManager[Hearing]:
    """Make what decodes lists of so many recordings at most: this process, or several."""
    build, belongs_to = functools.partial(_build, args), decode_list.identity(args)
    count = min(args.nj, recordings)
    if count == 1:
        return nullcontext(one_by_one(build(), belongs_to))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if count > cores:
        logging.warning(f"--nj {args.nj}: more than the cores, {cores}: it takes memory, and is no faster")
    return Workers(build, belongs_to, count, gpu=args.ngpu > 0)


def _build(args: argparse.Namespace) -> LongForm:
    """Build the model, in whatever process."""
    espnet_rand.register()
    return LongForm(recognition.build(args.task, args), args.mode, args.window, args.overlap)


def _directories(output_dir: str, data: Sequence[Tuple[str, str, str]]) -> Dict[Path, Tuple[str, str, str]]:
    """The directory that each list is decoded into."""
    if len(data) == 1:
        return {Path(output_dir): data[0]}
    directories = {Path(output_dir, Path(os.path.abspath(entry[0])).parent.name): entry for entry in data}
    if len(directories) < len(data):
        raise DataError("--data_path_and_name_and_type: two lists are in folders of the same name: decode them apart")
    return directories


def _log(level: str, console: Console) -> None:
    """Set up the log."""
    if console.is_terminal:  # above the progress bar, which other lines would tear
        logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=console)])
    else:
        form = "%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"
        logging.basicConfig(level=level, format=form)


def main(cmd: Optional[List[str]] = None) -> None:
    """Run the command; exit with status 1 where a recording is refused or nothing can be decoded."""
    task = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    task.add_argument("--task", choices=recognition.TASKS, default="asr")
    run(asr_inference_long, get_parser(task.parse_known_args(cmd)[0].task), cmd)


if __name__ == "__main__":
    main()
