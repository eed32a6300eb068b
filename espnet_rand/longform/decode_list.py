"""Decodes a list of recordings into a directory."""

import argparse
import hashlib
import json
import logging
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from espnet_rand.atomic import fingerprint, lock, write_text
from espnet_rand.environment import EVAL_BITS, TRAILING_SILENCE
from espnet_rand.kaldi import DataError, read_lines
from espnet_rand.longform.audio import CommandError, open_entry
from espnet_rand.longform.decoding import LongForm, Transcript
from espnet_rand.longform.formats import as_json, ctm, srt, vtt
from espnet_rand.longform.journal import JournalError
from espnet_rand.longform.sound import AudioError
from espnet_rand.toolkit import launcher

_FILES = ("asr_train_config", "asr_model_file", "lm_train_config", "lm_file", "ngram_file", "bpemodel", "eval_bits")
# options that do not change what is decoded
_FREE = {"config", "output_dir", "log_level", "ngpu", "num_workers", "batch_size", "nbest"}
_FREE |= {"key_file", "data_path_and_name_and_type"}
_FREE |= {"mode", "window", "overlap"}  # LongForm says which of these its mode depends on

# bytes; a file's name has 255, and endings and numbers of processes take some
_LONGEST_NAME = 200


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
    long_form: LongForm,
    entries: Mapping[str, str],
    output_dir: Path,
    belongs_to: Optional[Dict[str, Any]] = None,
    pipes: bool = False,
    console: Optional[Console] = None,
) -> int:
    """Decode recordings into a directory; one that cannot be decoded is refused in report.jsonl, the others go on.

    Args:
        entries: recordings as wav.scp names them, by their keys
        output_dir: gets 1best_recog/{text,ctm}, srt/, vtt/, json/, report.jsonl, and windows/ with the journals
        belongs_to: what the journals belong to besides the recording; see `of` of LongForm
        pipes: whether entries may be commands
        console: where progress is shown, if it is a terminal; default: stderr

    Returns:
        how many were refused

    Raises:
        JournalError: finished windows in output_dir are of other options, and stay as they are; or another run is at
            work there
        OSError: output_dir cannot be written to
    """
    with locked(output_dir):
        return _decode(long_form, entries, output_dir, belongs_to, pipes, console)


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


def _decode(
    long_form: LongForm,
    entries: Mapping[str, str],
    output_dir: Path,
    belongs_to: Optional[Dict[str, Any]],
    pipes: bool,
    console: Optional[Console],
) -> int:
    """Decode recordings into a directory that is locked; return how many were refused."""
    for directory in ("1best_recog", "windows", "srt", "vtt", "json"):
        (output_dir / directory).mkdir(parents=True, exist_ok=True)
    transcripts: Dict[str, Transcript] = {}
    report = []
    with _progress(console or Console(stderr=True)) as progress:
        for n, (key, entry) in enumerate(entries.items(), 1):
            task = progress.add_task(f"{n}/{len(entries)} {key}", total=None)

            def show(done: float, total: float, key: str = key, task: Any = task) -> None:
                progress.update(task, completed=done, total=total)
                if progress.disable:
                    logging.info(f"{key}: {done:.0f} of {total:.0f} s")

            begun = time.perf_counter()
            try:
                journal = output_dir / "windows" / f"{_file_name(key)}.jsonl"
                with open_entry(entry, pipes, long_form.recognizer.rate) as recording:
                    transcript = transcripts[key] = long_form(recording, journal, belongs_to, show)
                line = {"key": key, "decoded": True, "seconds": transcript.seconds, "notes": transcript.notes}
                line["took"] = round(time.perf_counter() - begun, 3)
                logging.info(f"{key}: {transcript.seconds:.1f} s, took {line['took']:.1f} s {transcript.notes or ''}")
            except JournalError:  # the run is at fault, not the recording
                raise
            except Exception as e:  # whatever a model raises: the other recordings go on
                reason = (str(e) or type(e).__name__).splitlines()[0]
                if isinstance(e, CommandError):
                    reason += ". Fix: data of type kaldi_ark may have commands: wav.scp,speech,kaldi_ark"
                line = {"key": key, "decoded": False, "reason": reason}
                logging.error(f"{key}: refused: {reason}", exc_info=not isinstance(e, AudioError))
            progress.remove_task(task)
            report.append(line)
            if key in transcripts:
                _write_transcript(output_dir, key, transcripts[key])
    texts = "".join(f"{key} {' '.join(t.text.splitlines())}".rstrip() + "\n" for key, t in transcripts.items())
    write_text(output_dir / "1best_recog/text", texts)
    write_text(output_dir / "1best_recog/ctm", "".join(ctm(key, transcript) for key, transcript in transcripts.items()))
    write_text(output_dir / "report.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in report))
    return len(entries) - len(transcripts)


def _write_transcript(output_dir: Path, key: str, transcript: Transcript) -> None:
    """Write the files of one recording: subtitles and JSON."""
    name = _file_name(key)
    for kind, content in (("srt", srt(transcript)), ("vtt", vtt(transcript)), ("json", as_json(key, transcript))):
        write_text(output_dir / kind / f"{name}.{kind}", content)


def _progress(console: Console) -> Progress:
    """The bars of a run, which are shown on a terminal alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} s"))
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)


def _file_name(key: str) -> str:
    """The name of a key's files: one for each key, whatever is in it and however long it is."""
    name = key.replace("%", "%25").replace("/", "%2F")
    text = name.encode()
    if len(text) <= _LONGEST_NAME:
        return name
    return f"{text[: _LONGEST_NAME // 2].decode(errors='ignore')}%_{hashlib.sha256(text).hexdigest()}"
