"""Decodes the recordings of a list, one by one."""

import logging
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Sequence

from espnet_rand.longform.audio import CommandError, open_entry
from espnet_rand.longform.decoding import LongForm, Transcript
from espnet_rand.longform.journal import JournalError
from espnet_rand.longform.sound import AudioError


class Job(NamedTuple):
    """A recording that is to be decoded.

    Attributes:
        key: its name in the list
        entry: the recording as wav.scp names it
        journal: the file that keeps what is finished
        pipes: whether the entry may be a command
        seconds: its length by its header; None: not known
    """

    key: str
    entry: str
    journal: Path
    pipes: bool = False
    seconds: Optional[float] = None


class Outcome(NamedTuple):
    """What became of a recording: its line in report.jsonl, and what is said in it; None: it was refused."""

    line: Dict[str, Any]
    transcript: Optional[Transcript]


#: Called with a recording's key, the seconds of it that are finished, and its length in seconds.
Follow = Callable[[str, float, float], None]
#: Decodes recordings, in any order.
Hearing = Callable[[Sequence[Job], Follow], Iterator[Outcome]]


def one_by_one(long_form: LongForm, belongs_to: Optional[Dict[str, Any]] = None) -> Hearing:
    """Make what decodes recordings in this process, one after another.

    Args:
        belongs_to: what the journals belong to besides the recording; see `of` of LongForm
    """

    def hearing(jobs: Sequence[Job], follow: Follow) -> Iterator[Outcome]:
        for job in jobs:
            yield hear(long_form, job, belongs_to, follow)

    return hearing


def hear(long_form: LongForm, job: Job, belongs_to: Optional[Dict[str, Any]], follow: Follow) -> Outcome:
    """Decode a recording; one that cannot be decoded is refused.

    Raises:
        JournalError: finished windows are of other options, and stay as they are; or another run is at work on them
    """
    begun = time.perf_counter()
    try:
        with open_entry(job.entry, job.pipes, long_form.recognizer.rate) as recording:
            transcript = long_form(recording, job.journal, belongs_to, lambda *seconds: follow(job.key, *seconds))
    except JournalError:  # the run is at fault, not the recording
        raise
    except Exception as e:  # whatever a model raises: the other recordings go on
        reason = (str(e) or type(e).__name__).split("\n")[0]
        if isinstance(e, CommandError):
            reason += ". Fix: data of type kaldi_ark may have commands: wav.scp,speech,kaldi_ark"
        return refuse(job.key, reason, trace=not isinstance(e, AudioError))
    took = round(time.perf_counter() - begun, 3)
    logging.info(f"{job.key}: {transcript.seconds:.1f} s, took {took:.1f} s {transcript.notes or ''}")
    line = {"key": job.key, "decoded": True, "seconds": transcript.seconds, "notes": transcript.notes, "took": took}
    return Outcome(line, transcript)


def refuse(key: str, reason: str, trace: bool = False) -> Outcome:
    """Log that a recording is refused, with the traceback of what went wrong if it is wanted."""
    logging.error(f"{key}: refused: {reason}", exc_info=trace)
    return Outcome({"key": key, "decoded": False, "reason": reason}, None)
