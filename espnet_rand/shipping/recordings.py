"""The recordings that a model is calibrated on, and the others that it is checked on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

import numpy as np
import soundfile

from espnet_rand.kaldi import DataError, read_lines, spread
from espnet_rand.longform.audio import open_entry
from espnet_rand.longform.decode_list import read_entries
from espnet_rand.reporting import following


@dataclass
class Recordings:
    """Recordings as WAV files of one channel, by their keys; none is in both parts.

    Attributes:
        calibration, check: the two parts
        texts: transcripts of all keys; None: the list has none
        seconds: the length of those in `check` together
        left_out: keys of those that are longer than the model hears at once
    """

    calibration: Dict[str, Path]
    check: Dict[str, Path]
    texts: Optional[Dict[str, str]]
    seconds: float = 0.0
    left_out: List[str] = field(default_factory=list)

    def leave_out_wordless(self, texts: Mapping[str, str]) -> None:
        """Leave recordings whose text is empty out of the calibration. Raises DataError: there are no others."""
        self.calibration = {key: path for key, path in self.calibration.items() if texts[key]}
        if not self.calibration:
            raise DataError("--data: no recording of the calibration has a word. Fix: give others, or transcripts")


def prepare(
    lists: Sequence[Path], rate: int, longest: float, num_calibration: int, num_check: int, folder: Path
) -> Recordings:
    """Write the recordings that are used as WAV files of 16 bits into a folder.

    Args:
        lists: wav.scp, and perhaps text
        rate: of the model, in Hz
        longest: samples that the model hears at once
        num_calibration, num_check: recordings of each part at most, spread evenly over the list; where both are wanted,
            the check gets no more than half of them

    Raises:
        DataError: a list is not Kaldi's, a recording has no text, or there are too few recordings
        AudioError: a recording cannot be read
    """
    entries, _ = read_entries((str(lists[0]), "speech", "sound"))
    texts = read_lines(lists[1]) if len(lists) > 1 else None
    if texts is not None and (missing := [key for key in entries if key not in texts]):
        raise DataError(f"{lists[1]}: it has no line for {missing[0]}, which is in {lists[0]}")
    if texts is not None and not any(texts[key] for key in entries):
        raise DataError(f"{lists[1]}: its lines are empty. Fix: leave it out")
    made = Recordings({}, {}, texts)
    keys = [*entries]
    check = set(spread(keys, min(num_check, len(keys) // 2) if num_calibration else num_check))
    others = [key for key in keys if key not in check and (texts is None or texts[key])]
    calibration = set(spread(others, num_calibration))
    chosen = [key for key in keys if key in check or key in calibration]
    for number, key in enumerate(following(chosen, "reading recordings")):
        with open_entry(entries[key], False, rate) as recording:
            if recording.length > longest:
                made.left_out.append(key)
                continue
            path = folder / f"{number:05d}.wav"
            _write(path, recording.read(0, recording.length), rate)
            (made.check if key in check else made.calibration)[key] = path
            made.seconds += recording.seconds if key in check else 0.0
    if not made.check or (num_calibration and not made.calibration):
        raise DataError(
            f"{lists[0]}: {len(keys)} recordings, {len(made.left_out)} of them too long for the model: one at least is "
            "wanted to calibrate, and another to check. Fix: give more, or cut them"
        )
    return made


def _write(path: Path, samples: np.ndarray, rate: int) -> None:
    try:
        soundfile.write(path, samples, rate, subtype="PCM_16")
    except soundfile.LibsndfileError as e:  # which does not say more
        raise DataError(f"{e} Fix: see that its disk has room, or set TMPDIR to another's folder") from None
