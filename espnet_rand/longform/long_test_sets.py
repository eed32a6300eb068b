"""Long test sets: consecutive utterances of a Kaldi-style data directory, joined into long recordings."""

import json
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
import soundfile

from espnet_rand.atomic import replacing_directory
from espnet_rand.kaldi import DataError, read_lines, write_data_dir
from espnet_rand.longform.audio import Recording, open_entry

#: What utterances are joined by: the recording that they are segments of; the speaker; the utterance's name up to its
#: last "-" (a chapter of LibriSpeech); or one after the other, all.
GROUPS = ("recording", "speaker", "chapter", "all")
# length of an utterance's quietest stretch, which the pause after it is filled with
_ROOM_SECONDS = 0.1


class Utterance(NamedTuple):
    """An utterance: its words, and where they are said (times in seconds; end None: the recording's)."""

    name: str
    text: str
    recording: str
    start: float
    end: Optional[float]
    group: str


def read_utterances(data_dir: Path, by: str) -> List[Utterance]:
    """Read the utterances of a data directory, in the order in which they were said.

    Raises:
        DataError: a file is not there or lacks an utterance, or `by` is recording and there is no file `segments`
    """
    texts = read_lines(data_dir / "text")
    recordings = read_lines(data_dir / "wav.scp")
    segments: Dict[str, Any] = {name: (name, 0.0, None) for name in texts}
    if (data_dir / "segments").exists():
        segments = {name: _segment(data_dir, name, line) for name, line in read_lines(data_dir / "segments").items()}
    elif by == "recording":
        raise DataError(f"{data_dir} has no file segments: choose another of {', '.join(GROUPS)}")
    speakers = read_lines(data_dir / "utt2spk") if by == "speaker" else {}
    utterances = []
    for name, text in texts.items():
        try:
            recording, start, end = segments[name]
            if by == "recording":
                group = recording
            elif by == "speaker":
                group = speakers[name]
            else:
                group = name.rpartition("-")[0] or name if by == "chapter" else "all"
            utterances.append(Utterance(name, text, recordings[recording], start, end, group))
        except KeyError as e:
            raise DataError(f"{data_dir}: {name} is in text, but {e} is not in segments, wav.scp or utt2spk") from None
    if by == "recording":
        utterances.sort(key=lambda utterance: (utterance.group, utterance.start))
    return utterances


def _segment(data_dir: Path, name: str, line: str) -> tuple:
    """Split a line of `segments` into the recording, the start and the end, in seconds."""
    try:
        recording, start, end = line.split()
        if 0 <= float(start) < float(end):
            return recording, float(start), float(end)
    except ValueError:
        pass
    raise DataError(f"{data_dir}/segments: {name}: a recording, start and end are wanted: {line}")


def join(
    data_dir: Path, output_dir: Path, seconds: Optional[float], by: str, pause: Optional[float], pipes: bool = False
) -> Dict[str, Any]:
    """Make a data directory of long recordings: wav.scp, text, utt2spk, spk2utt, manifest.jsonl, FLAC files.

    A recording ends before the utterance that would take it beyond `seconds`. The rest of a group is left out if it is
    shorter than half of that, and so is an utterance that is longer alone.

    Args:
        data_dir: wav.scp, text, utt2spk, and segments or not
        output_dir: is made anew
        seconds: length of the recordings; None: all of a group in one; 0: nothing is joined, each utterance is one
        by: one of GROUPS
        pause: seconds between utterances, filled with the quietest tenth of a second of the one before, backwards and
            forwards: models do not know digital silence. None: what is between them in their recording
        pipes: whether entries of wav.scp may be commands

    Returns:
        counts: recordings, utterances, left_out (utterances), and their seconds

    Raises:
        DataError: the data directory is off, nothing is long enough, or `pause` is None and there are no segments
        AudioError: a recording cannot be read
    """
    utterances = read_utterances(data_dir, by)
    if not utterances:
        raise DataError(f"{data_dir}: there are no utterances")
    if pause is None and (by != "recording" or utterances[0].end is None):
        raise DataError(f"{data_dir}: natural pauses want segments, joined by recording: set a pause in seconds")
    with replacing_directory(output_dir) as temporary, _Recordings(pipes) as recordings:
        manifest = _write_recordings(temporary / "wav", utterances, seconds, pause, recordings)
        if not manifest:
            raise DataError(
                f"{data_dir}: by {by}, no {seconds:g} s come together: choose another of {', '.join(GROUPS)}"
            )
        _write_lists(temporary, output_dir.absolute() / "wav", manifest)
    used = sum(len(line["utterances"]) for line in manifest)
    return {
        "recordings": len(manifest),
        "utterances": used,
        "left_out": len(utterances) - used,
        "seconds": sum(line["seconds"] for line in manifest),
    }


def _write_recordings(
    folder: Path,
    utterances: Sequence[Utterance],
    seconds: Optional[float],
    pause: Optional[float],
    recordings: "_Recordings",
) -> List[Dict[str, Any]]:
    """Write the joined recordings into a folder, which is made; return the lines of manifest.jsonl."""
    folder.mkdir()
    recordings.open(utterances[0].recording)
    lengths = {u.name: _seconds(u, recordings) for u in utterances}
    manifest = []
    for number, part in enumerate(_parts(utterances, lengths, seconds, pause)):
        key = f"{_plain(part[0].group)}-{number:05d}"
        sources = _write(folder / f"{key}.flac", part, lengths, pause, recordings)
        line = {"key": key, "text": " ".join(filter(None, (u.text for u in part))), "group": part[0].group}
        manifest.append({**line, "seconds": max(s["end"] for s in sources), "utterances": sources})
    return manifest


def _write_lists(directory: Path, wav: Path, manifest: Sequence[Dict[str, Any]]) -> None:
    """Write the lists of a data directory whose recordings will be in the folder `wav`."""
    rows = ((line["key"], line["key"], f"{wav / line['key']}.flac", line["text"]) for line in manifest)
    write_data_dir(directory, rows)
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in manifest)
    (directory / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


class _Recordings(ExitStack):
    """Entries of wav.scp, at the rate of the first. One stays open until another is wanted: commands take time."""

    def __init__(self, pipes: bool):
        super().__init__()
        self.rate: Optional[int] = None
        self._pipes = pipes
        self._entry: Optional[str] = None

    def open(self, entry: str) -> Recording:
        """Open an entry, unless it is the one that is open."""
        if entry != self._entry:
            self.close()
            self._recording = self.enter_context(open_entry(entry, self._pipes, self.rate))
            self._entry, self.rate = entry, self._recording.rate
        return self._recording


def _seconds(utterance: Utterance, recordings: _Recordings) -> float:
    """The length of an utterance, in seconds."""
    if utterance.end is not None:
        return utterance.end - utterance.start
    return recordings.open(utterance.recording).seconds


def _parts(
    utterances: Sequence[Utterance], lengths: Dict[str, float], seconds: Optional[float], pause: Optional[float]
) -> Iterator[List[Utterance]]:
    """Yield the utterances that are joined into one recording."""

    def length(part: List[Utterance]) -> float:
        if pause is None:
            return max(u.end for u in part) - part[0].start  # segments may overlap
        return sum(lengths[u.name] for u in part) + pause * (len(part) - 1)

    groups: Dict[str, List[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.group, []).append(utterance)
    for group in groups.values():
        if seconds is None:
            yield group
            continue
        if seconds == 0:
            yield from ([utterance] for utterance in group)
            continue
        part: List[Utterance] = []
        for utterance in group:
            if part and length([*part, utterance]) > seconds:
                if length(part) >= seconds / 2:
                    yield part
                part = []
            if length([utterance]) <= seconds:
                part.append(utterance)
        if part and length(part) >= seconds / 2:
            yield part


def _write(
    path: Path, part: List[Utterance], lengths: Dict[str, float], pause: Optional[float], recordings: _Recordings
) -> List[Dict[str, Any]]:
    """Write a recording, an utterance at a time; return where each lies in it, in seconds."""
    rate = recordings.rate
    sources = []
    with _new_file(path, rate) as file:
        for i, utterance in enumerate(part):
            start = round(utterance.start * rate)
            stop = start + round(lengths[utterance.name] * rate)
            begun = file.frames
            sources.append({"utterance": utterance.name, "text": utterance.text, "start": begun / rate})
            recording = recordings.open(utterance.recording)
            if start >= recording.length or stop > recording.length + 0.1 * rate:
                raise DataError(f"{utterance.name} ends at {utterance.end} s; {recording.name} is shorter")
            stop = min(stop, recording.length)
            following = part[i + 1] if i + 1 < len(part) else None
            filled = stop
            if pause is None:  # the recording goes on, to the next one or the last end; segments may overlap
                filled = max(start, round((following.start if following else max(u.end for u in part)) * rate))
            samples = recording.read(start, min(filled, recording.length))
            sources[-1]["end"] = (begun + stop - start) / rate
            if pause and following is not None:
                samples = np.concatenate([samples, _room(samples, round(pause * rate), round(_ROOM_SECONDS * rate))])
            file.write(samples)
    return sources


@contextmanager
def _new_file(path: Path, rate: int) -> Iterator[soundfile.SoundFile]:
    """Open a new FLAC file. Raises DataError: the disk is full, or else not to be written to."""
    try:
        with soundfile.SoundFile(path, "w", rate, channels=1, subtype="PCM_16") as file:
            yield file
    except soundfile.LibsndfileError as e:
        raise DataError(f"{path}: not to be written: {e} Fix: free some space on its disk") from None


def _room(samples: np.ndarray, count: int, room: int) -> np.ndarray:
    """Fill `count` samples with the quietest `room` samples, backwards and forwards."""
    starts = range(0, max(1, len(samples) - room + 1), max(1, room // 4))
    quietest = min(starts, key=lambda start: float(np.square(samples[start : start + room]).mean()))
    tail = samples[quietest : quietest + room]
    return np.resize(np.concatenate([tail[::-1], tail]), count)


def _plain(name: str) -> str:
    """The name without the characters that a file's name cannot have."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
