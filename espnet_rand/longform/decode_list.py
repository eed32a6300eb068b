"""Decodes a list of recordings into a directory."""

import argparse
import json
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from rich.console import Console

from espnet_rand.atomic import fingerprint, lock, write_text
from espnet_rand.environment import EVAL_BITS, TRAILING_SILENCE
from espnet_rand.kaldi import DataError, read_lines
from espnet_rand.longform.audio import seconds_by_header
from espnet_rand.longform.decoding import Transcript
from espnet_rand.longform.finished import file_name
from espnet_rand.longform.formats import as_json, ctm, srt, vtt
from espnet_rand.longform.jobs import Hearing, Job, Outcome
from espnet_rand.longform.journal import JournalError
from espnet_rand.longform.list_progress import ListProgress
from espnet_rand.toolkit import launcher

_FILES = ("asr_train_config", "asr_model_file", "lm_train_config", "lm_file", "ngram_file", "bpemodel", "eval_bits")
# options that do not change what is decoded
_FREE = {"config", "output_dir", "log_level", "ngpu", "num_workers", "batch_size", "nbest", "nj"}
_FREE |= {"key_file", "data_path_and_name_and_type"}
_FREE |= {"html", "compare"}
_FREE |= {"mode", "window", "overlap"}  # LongForm says which of these its mode depends on


def read_entries(data: Tuple[str, str, str], key_file: Optional[str] = None) -> Tuple[Dict[str, str], bool]:
    """Read the entries of wav.scp that are to be decoded, by their keys, and whether they may be commands.

    Args:
        data: `--data_path_and_name_and_type`: path, name and type of a list
        key_file: its first words are the keys; None: all

    Raises:
        DataError: it is no list of recordings, or not Kaldi's format, or lacks a key
    """
    path, name, kind = data
    if name != "speech" or kind not in ("sound", "kaldi_ark"):
        raise DataError(f"--data_path_and_name_and_type: {path},{name},{kind}: speech of type sound or kaldi_ark")
    entries = read_lines(Path(path))
    if empty := [key for key, entry in entries.items() if not entry]:
        raise DataError(f"{path}: {empty[0]} has no recording")
    if key_file is not None:
        keys = read_lines(Path(key_file))
        if missing := [key for key in keys if key not in entries]:
            raise DataError(f"{key_file}: {missing[0]} is not in {path}")
        entries = {key: entries[key] for key in keys}
    if not entries:
        raise DataError(f"{path}: no recordings")
    return entries, kind == "kaldi_ark"


def identity(args: argparse.Namespace) -> Dict[str, Any]:
    """Describe what journals belong to: all options, those of `espnet-rand` too, and the files of the model."""
    options = {name: value for name, value in vars(args).items() if name not in _FREE}
    options.update(eval_bits=os.environ.get(EVAL_BITS), packed_backend=launcher.packed_backend())
    options.update(trailing_silence=os.environ.get(TRAILING_SILENCE))
    for name in _FILES:
        path = options.get(name)
        if path is not None and os.path.isfile(path):
            options[name] = {"path": os.path.abspath(path), **fingerprint(path)}
    return json.loads(json.dumps(options, default=str))


def decode(
    hearing: Hearing,
    entries: Mapping[str, str],
    output_dir: Path,
    pipes: bool = False,
    console: Optional[Console] = None,
) -> int:
    """Decode recordings into a directory; one that cannot be decoded is refused in report.jsonl, the others go on.

    Args:
        hearing: decodes them: in this process (jobs.one_by_one), or in several (workers.Workers)
        entries: recordings as wav.scp names them, by their keys
        output_dir: gets 1best_recog/{text,ctm}, srt/, vtt/, json/, report.jsonl, and windows/ with the journals
        pipes: whether entries may be commands
        console: where progress is shown, if it is a terminal; default: stderr

    Returns:
        how many were refused

    Raises:
        JournalError: finished windows in output_dir are of other options, and stay as they are; or another run is at
            work there
        WorkerError: see workers.Workers
        OSError: output_dir cannot be written to
    """
    with locked(output_dir):
        for directory in ("1best_recog", "windows", "srt", "vtt", "json"):
            (output_dir / directory).mkdir(parents=True, exist_ok=True)
        jobs = [
            Job(key, entry, output_dir / "windows" / f"{file_name(key)}.jsonl", pipes, seconds_by_header(entry))
            for key, entry in entries.items()
        ]
        outcomes: Dict[str, Outcome] = {}
        with ListProgress({job.key: job.seconds for job in jobs}, console or Console(stderr=True)) as progress:
            for outcome in hearing(jobs, progress.follow):
                key = outcome.line["key"]
                outcomes[key] = outcome
                progress.finish(key, outcome.transcript is not None)
                if outcome.transcript is not None:
                    _write_transcript(output_dir, key, outcome.transcript)
        return _write_list(output_dir, [outcomes[key] for key in entries])


@contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Keep other runs out of a directory, which is made. Its run.lock says who is at work.

    Raises:
        JournalError: another run is at work there
        OSError: it cannot be written to
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / "run.lock").open("a+", encoding="utf-8", errors="replace") as file:
        file.seek(0)
        if not lock(file):
            holder = file.readline().strip() or "another run"
            raise JournalError(
                f"{output_dir}: {holder} is at work there. Fix: wait for it, stop it, or choose another --output_dir"
            )
        file.truncate(0)  # a killed run left its line
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')},\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _write_list(output_dir: Path, outcomes: Sequence[Outcome]) -> int:
    """Write the files of all recordings; return how many were refused."""
    lines = [outcome.line for outcome in outcomes]
    heard = {line["key"]: transcript for line, transcript in outcomes if transcript is not None}
    texts = "".join(f"{key} {' '.join(t.text.splitlines())}".rstrip() + "\n" for key, t in heard.items())
    write_text(output_dir / "1best_recog/text", texts)
    write_text(output_dir / "1best_recog/ctm", "".join(ctm(key, transcript) for key, transcript in heard.items()))
    write_text(output_dir / "report.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return len(outcomes) - len(heard)


def _write_transcript(output_dir: Path, key: str, transcript: Transcript) -> None:
    """Write the files of one recording: subtitles and JSON."""
    name = file_name(key)
    for kind, content in (("srt", srt(transcript)), ("vtt", vtt(transcript)), ("json", as_json(key, transcript))):
        write_text(output_dir / kind / f"{name}.{kind}", content)
