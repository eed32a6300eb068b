"""Decode long recordings: whole, in windows joined on what both saw, or in stretches with speech.

Takes the options of espnet2.bin.asr_inference (or, with --task asr_transducer, asr_transducer_inference), and writes to
--output_dir, once all recordings are decoded

  1best_recog/text      Kaldi's text
  1best_recog/ctm       words with times
  srt/ vtt/ json/       a file for each recording
  report.jsonl          a line for each recording: decoded, or refused and why
  windows/              what is finished: the same command goes on from there
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import quote

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from espnet_rand.atomic import replacing
from espnet_rand.kaldi import DataError, read_lines
from espnet_rand.longform import AudioError, LongForm, Transcript
from espnet_rand.longform.audio import CommandError, opened
from espnet_rand.longform.decoding import MODES
from espnet_rand.longform.formats import as_json, ctm, srt, vtt
from espnet_rand.longform.journal import JournalError
from espnet_rand.longform.vad import VadError
from espnet_rand.packing import PackedFileError
from espnet_rand.toolkit import recognition

_FILES = ("asr_train_config", "asr_model_file", "lm_train_config", "lm_file", "ngram_file", "bpemodel")
# options that do not change what is decoded
_FREE = {"config", "output_dir", "log_level", "ngpu", "num_workers", "batch_size", "nbest"}
_FREE |= {"key_file", "data_path_and_name_and_type"}


def get_parser(task: str = "asr") -> argparse.ArgumentParser:
    from espnet2.utils.types import str2bool

    parser = recognition.get_parser(task)
    parser.prog = "asr_inference_long"
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("Long recordings")
    group.add_argument("--task", choices=recognition.TASKS, default="asr")
    group.add_argument("--mode", choices=MODES, default="windows", help="vad needs silero-vad (pip)")
    group.add_argument(
        "--ctc_greedy",
        type=str2bool,
        default=False,
        help="the best token of each frame by the model's CTC; no search, whose time grows with the square of a window",
    )
    group.add_argument("--window", type=float, default=30.0, help="seconds")
    group.add_argument("--overlap", type=float, help="seconds that two windows share; default: a fifth of a window")
    return parser


def recordings(args: argparse.Namespace) -> Tuple[Dict[str, str], bool]:
    """The entries of wav.scp that are asked for, by their keys, and whether they may be commands.

    Raises:
        DataError: there is not one list of recordings, or it is not Kaldi's format, or lacks a key
    """
    if len(args.data_path_and_name_and_type) != 1:
        raise DataError("--data_path_and_name_and_type: one is wanted: wav.scp,speech,sound")
    path, name, kind = args.data_path_and_name_and_type[0]
    if name != "speech" or kind not in ("sound", "kaldi_ark"):
        raise DataError(f"--data_path_and_name_and_type: {path},{name},{kind}: speech of type sound or kaldi_ark")
    entries = read_lines(Path(path))
    if empty := [key for key, entry in entries.items() if not entry]:
        raise DataError(f"{path}: {empty[0]} has no recording")
    if args.key_file is not None:
        keys = read_lines(Path(args.key_file))
        if missing := [key for key in keys if key not in entries]:
            raise DataError(f"{args.key_file}: {missing[0]} is not in {path}")
        entries = {key: entries[key] for key in keys}
    if not entries:
        raise DataError(f"{path}: no recordings")
    return entries, kind == "kaldi_ark"


def _of(args: argparse.Namespace) -> Dict[str, Any]:
    """What a journal belongs to: all options, and the files of the model."""
    options = {name: value for name, value in vars(args).items() if name not in _FREE}
    for name in _FILES:
        path = options.get(name)
        if path is not None and os.path.isfile(path):
            status = os.stat(path)
            options[name] = [os.path.abspath(path), status.st_size, status.st_mtime]
    return json.loads(json.dumps(options, default=str))


def decode(args: argparse.Namespace, console: Console) -> int:
    """Decode all recordings; return how many were refused.

    Raises:
        DataError, OSError, PackedFileError, ValueError, VadError: nothing can be decoded
        JournalError: what is finished in --output_dir is of other options; it stays as it is
    """
    entries, pipes = recordings(args)
    output = Path(args.output_dir)
    for directory in ("1best_recog", "windows", "srt", "vtt", "json"):
        (output / directory).mkdir(parents=True, exist_ok=True)
    long_form = LongForm(recognition.build(args.task, args), args.mode, args.window, args.overlap)
    transcripts: Dict[str, Transcript] = {}
    report = []
    with _progress(console) as progress:
        for n, (key, entry) in enumerate(entries.items(), 1):
            task = progress.add_task(f"{n}/{len(entries)} {key}", total=None)
            begun = time.perf_counter()
            try:
                transcript = transcripts[key] = _transcript(long_form, args, key, entry, pipes, progress, task)
                line = {"key": key, "decoded": True, "seconds": transcript.seconds, "notes": transcript.notes}
                line["took"] = round(time.perf_counter() - begun, 3)
                logging.info(f"{key}: {transcript.seconds:.1f} s, took {line['took']:.1f} s {transcript.notes or ''}")
            except JournalError:  # of the run, not of the recording
                raise
            except Exception as e:  # whatever a model raises: the other recordings go on
                reason = (str(e) or type(e).__name__).splitlines()[0]
                line = {"key": key, "decoded": False, "reason": reason}
                logging.error(f"{key}: refused: {reason}", exc_info=not isinstance(e, AudioError))
            progress.remove_task(task)
            report.append(line)
            if key in transcripts:
                for kind, text in (("srt", srt), ("vtt", vtt)):
                    _write(output / kind / f"{_file_name(key)}.{kind}", text(transcripts[key]))
                _write(output / "json" / f"{_file_name(key)}.json", as_json(key, transcripts[key]))
    _write(output / "1best_recog/text", "".join(f"{key} {t.text}".rstrip() + "\n" for key, t in transcripts.items()))
    _write(output / "1best_recog/ctm", "".join(ctm(key, transcript) for key, transcript in transcripts.items()))
    _write(output / "report.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in report))
    return len(entries) - len(transcripts)


def _transcript(
    long_form: LongForm, args: argparse.Namespace, key: str, entry: str, pipes: bool, progress: Progress, task: Any
) -> Transcript:
    def show(done: float, total: float) -> None:
        progress.update(task, completed=done, total=total)
        if progress.disable:
            logging.info(f"{key}: {done:.0f} of {total:.0f} s")

    journal = Path(args.output_dir) / "windows" / f"{_file_name(key)}.jsonl"
    try:
        with opened(entry, pipes, long_form.recognizer.rate) as recording:
            return long_form(recording, journal, _of(args), show)
    except CommandError as e:
        raise AudioError(f"{e}. Mend: data of type kaldi_ark may have commands: wav.scp,speech,kaldi_ark") from None


def _log(level: str, console: Console) -> None:
    if console.is_terminal:  # above the progress bar, which other lines would tear
        logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=console)])
    else:
        form = "%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"
        logging.basicConfig(level=level, format=form)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} s"))
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)


def _file_name(key: str) -> str:
    """A name for a file, one for each key, whatever is in it."""
    return quote(key, safe="")


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(cmd: Optional[List[str]] = None) -> None:
    """Exits with status 1 where a recording is refused or nothing can be decoded."""
    import espnet_rand

    espnet_rand.register()
    task = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    task.add_argument("--task", choices=recognition.TASKS, default="asr")
    parser = get_parser(task.parse_known_args(cmd)[0].task)
    args = parser.parse_args(cmd)
    console = Console(stderr=True)
    _log(args.log_level, console)
    try:
        refused = decode(args, console)
    except (DataError, JournalError, OSError, PackedFileError, ValueError, VadError) as e:
        sys.exit(f"{parser.prog}: error: {e}")
    if refused:
        sys.exit(f"{parser.prog}: {refused} recordings were refused: see {args.output_dir}/report.jsonl")


if __name__ == "__main__":
    main()
