"""Writes the transcripts of a list as one HTML page: recordings to play, and words that play from where they are said.

The page needs no network. What it takes from outside is escaped, and its Content-Security-Policy lets no other script
run than its own.
"""

import base64
import hashlib
import os
import re
from html import escape
from itertools import islice
from pathlib import Path
from typing import Iterator, List, Mapping, Optional, Tuple
from urllib.parse import quote

from espnet_rand.atomic import replacing
from espnet_rand.longform.comparison import Marked, compare
from espnet_rand.longform.decoding import Transcript
from espnet_rand.longform.finished import read_report, read_transcript
from espnet_rand.longform.formats import cues
from espnet_rand.toolkit.recognition.words import spaces

#: The page's name in the directory of a list.
NAME = "transcripts.html"

# the first bytes of files that browsers play: FLAC, Ogg, MP3 with tags, Matroska and WebM; WAV, M4A and MP3 by patterns
_PLAYED = re.compile(rb"fLaC|OggS|ID3|\x1aE\xdf\xa3|RIFF....WAVE|....ftyp|\xff[\xe0-\xff]", re.DOTALL)

_STYLE = """
body { font: 16px/1.6 sans-serif; max-width: 60em; margin: 1em auto; padding: 0 1em; color: #222; background: #fff }
section { border-top: 1px solid #ccc; padding-bottom: 1em }
audio { position: sticky; top: 0; width: 100% }
p { margin: 0.2em 0 }
.note { color: #777; font-size: 90% }
button { font: 13px monospace; border: 0; background: #eee; cursor: pointer; margin-right: 0.5em }
[data-t]:hover { background: #def; cursor: pointer }
.now { background: #cde }
ins { background: #dfd; text-decoration: none }
del { background: #fdd }
"""

_SCRIPT = """
"use strict";
document.addEventListener("click", event => {
  const word = event.target.closest("[data-t]");
  const audio = word && word.closest("section").querySelector("audio");
  if (!audio) return;
  audio.currentTime = Number(word.dataset.t);
  audio.play().catch(() => {});
});
for (const audio of document.querySelectorAll("audio")) {
  const words = [...audio.closest("section").querySelectorAll("[data-t]:not(button, del)")];
  const times = words.map(word => Number(word.dataset.t));
  let now = null;
  const failed = () => { audio.nextElementSibling.hidden = false; };
  if (audio.error) failed();
  audio.addEventListener("error", failed);
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
  });
  audio.addEventListener("timeupdate", () => {
    const said = words[times.findLastIndex(time => time <= audio.currentTime + 0.01)];
    if (said === now) return;
    if (now) now.classList.remove("now");
    if (said) said.classList.add("now");
    now = said;
  });
}
"""


def write_page(directory: Path, entries: Mapping[str, str], other: Optional[Path] = None) -> None:
    """Write transcripts.html into the directory of a list that was decoded.

    Args:
        directory: has report.jsonl and json/
        entries: recordings as wav.scp names them, by their keys
        other: such a directory of another run, to mark the words that differ

    Raises:
        FinishedError: files of one of the two are damaged
        OSError: the page cannot be written
    """
    reports = read_report(directory), {} if other is None else read_report(other)
    with replacing(directory / NAME) as temporary, temporary.open("w", encoding="utf-8") as page:
        page.write(_head(directory, other))
        for key, entry in entries.items():
            line = reports[0].get(key, {"decoded": False, "reason": "not decoded"})
            page.write(f"<section>\n<h2>{_shown(key)}</h2>\n{_player(directory, entry)}")
            if line["decoded"]:
                theirs = read_transcript(other, key) if reports[1].get(key, {}).get("decoded") else None
                page.write("".join(_transcript(read_transcript(directory, key), theirs, other is not None)))
            else:
                page.write(_note(f"refused: {line['reason']}"))
            page.write("</section>\n")
        page.write(f"<script>{_SCRIPT}</script>\n</body>\n</html>\n")


def _head(directory: Path, other: Optional[Path]) -> str:
    """The page's beginning, with its policy: no script but its own, and nothing from elsewhere but recordings."""
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; media-src 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    ours, compared = _shown(directory.resolve().name), ""
    if other is not None:
        compared = f"<p><ins>Words of this run alone</ins>, <del>words of {_shown(other)} alone</del></p>\n"
    return (
        '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{ours}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{ours}</h1>\n"
        f"<p>A click on a word, or on the time of a line, plays from there.</p>\n{compared}"
    )


def _player(directory: Path, entry: str) -> str:
    """An audio element for a recording, or why there is none."""
    if reason := _not_played(entry):
        return _note(f"{entry}: {reason}")
    relative = os.path.relpath(entry, directory)
    source = escape(quote(os.fsencode(relative.replace(os.sep, "/"))))
    failed = _note(f"{entry}: this browser cannot play it, or it is not there any more", hidden=True)
    return f'<audio controls preload="none" src="{source}"></audio>\n{failed}'


def _not_played(entry: str) -> str:
    """The reason why no browser plays an entry of wav.scp; empty: some do."""
    if entry.endswith("|"):
        return "a command, which a browser cannot play"
    if not os.path.isfile(entry):
        archive = re.fullmatch(r"(.+):\d+", entry)
        return "in an archive, which a browser cannot play" if archive else "there is no such file"
    try:
        with open(entry, "rb") as file:
            return "" if _PLAYED.match(file.read(16)) else "browsers cannot play this kind of file, but can play FLAC"
    except OSError as e:
        return f"not to be read: {e.strerror}"


def _transcript(ours: Transcript, theirs: Optional[Transcript], compared: bool) -> Iterator[str]:
    """Yield the lines of a recording: notes, and its words in the lines of subtitles."""
    notes = [f"{_clock(ours.seconds)} long", *ours.notes, *([] if ours.timed else ["times are estimates"])]
    words = [Marked(word, "both") for word in ours.words]
    if theirs is not None:
        words = compare(ours.words, theirs.words)
        count = [sum(marked.by == side for marked in words) for side in ("ours", "theirs")]
        notes.append(f"{count[0]} of {len(ours.words)} words are of this run alone, {count[1]} of the other's")
    elif compared:
        notes.append("the other run has no transcript of it")
    yield _note("; ".join(notes))
    merged = [marked.word for marked in words]
    spaced = zip(words, spaces(merged))
    for cue in cues(merged):
        yield _line([*islice(spaced, len(cue))])


def _line(words: List[Tuple[Marked, str]]) -> str:
    """A paragraph: the time when it begins, and its words, each with the white space before it."""
    start = max(0.0, min(marked.word.start for marked, _ in words))
    text = "".join(_shown(space) + _word(marked) for marked, space in words).lstrip()
    return f'<p dir="auto"><button data-t="{start:.2f}">{_clock(start)}</button>{text}</p>\n'


def _word(marked: Marked) -> str:
    """A word that plays from where it is said."""
    (text, start, end, _), tag = marked.word, {"both": "span", "ours": "ins", "theirs": "del"}[marked.by]
    start = max(0.0, start)
    return f'<{tag} data-t="{start:.2f}" title="{start:.2f} to {end:.2f} s">{_shown(text)}</{tag}>'


def _note(text: str, hidden: bool = False) -> str:
    return f'<p class="note"{" hidden" * hidden}>{_shown(text)}</p>\n'


def _shown(text: object) -> str:
    """Any text, or path, as HTML; half characters, which UTF-8 has no bytes for, are replaced."""
    return escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def _clock(seconds: float) -> str:
    """Write a time as 1:02:03 or 2:03."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}" if minutes >= 60 else f"{minutes}:{second:02d}"
