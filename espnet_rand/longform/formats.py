"""Transcripts as files: CTM, SRT, WebVTT, JSON."""

import json
from typing import Any, Dict, Iterator, List

from espnet_rand.longform.decoding import Transcript
from espnet_rand.toolkit.recognition import Word, join_text

#: A subtitle ends at a pause of so many seconds, and before it gets longer than so many seconds or characters.
PAUSE, SECONDS, CHARACTERS = 0.8, 7.0, 84


def ctm(key: str, transcript: Transcript) -> str:
    """NIST's time-marked words: recording, channel, start, duration, word."""
    return "".join(f"{key} 1 {w.start:.2f} {max(0.01, w.end - w.start):.2f} {w.text}\n" for w in transcript.words)


def srt(transcript: Transcript) -> str:
    """SubRip's subtitles."""
    return "".join(
        f"{i}\n{_clock(cue[0].start, ',')} --> {_clock(cue[-1].end, ',')}\n{join_text(cue)}\n\n"
        for i, cue in enumerate(_cues(transcript.words), 1)
    )


def vtt(transcript: Transcript) -> str:
    """WebVTT (W3C)."""
    escaped = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue[0].start, '.')} --> {_clock(cue[-1].end, '.')}\n{join_text(cue).translate(escaped)}\n\n"
        for cue in _cues(transcript.words)
    )


def as_json(key: str, transcript: Transcript) -> str:
    """All of it, times in seconds."""
    content: Dict[str, Any] = {"key": key, "seconds": transcript.seconds, "text": transcript.text}
    content.update(timed=transcript.timed, notes=transcript.notes, words=[w._asdict() for w in transcript.words])
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _cues(words: List[Word]) -> Iterator[List[Word]]:
    cue: List[Word] = []
    for word in words:
        if cue and (
            word.start - cue[-1].end > PAUSE
            or word.end - cue[0].start > SECONDS
            or len(join_text([*cue, word])) > CHARACTERS
        ):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
