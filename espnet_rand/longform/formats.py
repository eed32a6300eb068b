"""Writes transcripts as CTM, SRT, WebVTT and JSON."""

import json
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from espnet_rand.longform.decoding import Transcript
from espnet_rand.toolkit.recognition import Word, join_text
from espnet_rand.toolkit.recognition.words import spaces

#: A subtitle ends at a pause of so many seconds, and before it gets longer than so many seconds or characters.
PAUSE, SECONDS, CHARACTERS = 0.8, 7.0, 84
# seconds; a word takes so long at least
_SHORTEST = 0.01


def ctm(key: str, transcript: Transcript) -> str:
    """Write NIST's time-marked words, in order of time: recording, channel, start, duration, word."""
    lines = []
    for word in sorted(transcript.words, key=lambda word: word.start):
        start, end = _span([word])
        # recognizers of another kind may give words with spaces
        lines += [f"{key} 1 {start:.2f} {end - start:.2f} {token}\n" for token in word.text.split()]
    return "".join(lines)


def srt(transcript: Transcript) -> str:
    """Write SubRip's subtitles."""
    return "".join(f"{i}\n{_times(cue, ',')}\n{_line(cue)}\n\n" for i, cue in enumerate(cues(transcript.words), 1))


def vtt(transcript: Transcript) -> str:
    """Write WebVTT (W3C)."""
    escaped = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    return "WEBVTT\n\n" + "".join(
        f"{_times(cue, '.')}\n{_line(cue).translate(escaped)}\n\n" for cue in cues(transcript.words)
    )


def as_json(key: str, transcript: Transcript) -> str:
    """Write all of a transcript as JSON, times in seconds. A word has `space_before` if that is not one space."""
    content: Dict[str, Any] = {"key": key, "seconds": transcript.seconds, "text": transcript.text}
    words = [{"text": word.text, "start": word.start, "end": word.end} for word in transcript.words]
    for word, space in zip(words, spaces(transcript.words)):
        if space != " ":
            word["space_before"] = space
    content.update(timed=transcript.timed, notes=transcript.notes, words=words)
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def cues(words: Sequence[Word]) -> Iterator[List[Word]]:
    """Yield the words of each subtitle."""
    cue: List[Word] = []
    for word in words:
        if cue and (
            word.start - cue[-1].end > PAUSE
            or word.end - cue[0].start > SECONDS
            or len(_line([*cue, word])) > CHARACTERS
        ):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def _line(cue: List[Word]) -> str:
    """The text of a subtitle, in one line: a line break would end it."""
    return " ".join(filter(None, (line.strip() for line in join_text(cue).splitlines())))


def _times(cue: List[Word], point: str) -> str:
    """The line with the start and the end of a subtitle."""
    start, end = _span(cue)
    return f"{_clock(start, point)} --> {_clock(end, point)}"


def _span(words: List[Word]) -> Tuple[float, float]:
    """The start and the end of words, in seconds: the start is not below 0, and the end is later."""
    start = max(0.0, min(word.start for word in words))
    return start, max(start + _SHORTEST, *(word.end for word in words))


def _clock(seconds: float, point: str) -> str:
    """Write a time as hours, minutes, seconds and milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
