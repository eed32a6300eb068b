"""Speech recognition of long recordings."""

import importlib.metadata
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union

import numpy as np
import torch

from espnet_rand import __version__
from espnet_rand.errors import few
from espnet_rand.longform import vad
from espnet_rand.longform.audio import Recording
from espnet_rand.longform.joining import join
from espnet_rand.longform.journal import Journal
from espnet_rand.longform.pieces import Piece, packed, windows
from espnet_rand.longform.sound import AudioError
from espnet_rand.options import OptionError
from espnet_rand.toolkit.recognition import Heard, Recognizer, Word, join_text
from espnet_rand.toolkit.recognition.loudness import QUIET_SECONDS, quietest

MODES = ("windows", "whole", "vad")
# no sample above the smallest step of 16 bits: digital silence, which models have not seen
_SILENCE = 2.0**-15
# seconds; no word is so short, and frontends want more than a frame
_SHORTEST = 0.1
# seconds
_WINDOW = 30.0
# times in a note
_SHOWN = 5


class Transcript(NamedTuple):
    """What is said in a recording.

    Attributes:
        words: with their times in the recording, in seconds
        seconds: length of the recording
        timed: whether the times are those of alignments; otherwise (attention alone) some are estimates
        notes: remarks on the recording: converted, silent ...
    """

    words: List[Word]
    seconds: float
    timed: bool
    notes: List[str]

    @property
    def text(self) -> str:
        """The words as a text."""
        return join_text(self.words)


class LongForm:
    """Speech recognition of recordings of any length.

    >>> LongForm(Speech2Text("exp/asr/config.yaml", "exp/asr/valid.acc.ave.pth"))("talk.flac").text

    Args:
        speech2text: Speech2Text of espnet2.bin.asr_inference or asr_transducer_inference: float, quantized or packed;
            or a Recognizer of one, or anything else with a `rate` (and a `longest`, as a Recognizer's) that is
            called with samples and returns Heard
        mode: windows: pieces of a length, with an overlap, joined on what both saw; memory does not grow with the
            recording. A guarded Recognizer's begin where the first half of the overlap is quietest, which leaves half
            of it or more. vad: windows within the stretches with speech that silero-vad finds. whole: the recording at
            once
        window: seconds; no more than a few times what the model was trained on. Default: 30, or two thirds of what the
            model hears at once: Whisper wants silence behind what it hears. Mode whole leaves it out
        overlap: seconds that two windows share, half a window at most. Default: a fifth of a window

    Raises:
        OptionError: the options are off, or a window is longer than what the model hears at once
        VadError: mode is vad, and silero-vad is not installed, or does not know the model's rate
    """

    def __init__(
        self,
        speech2text: Any,
        mode: str = "windows",
        window: Optional[float] = None,
        overlap: Optional[float] = None,
    ):
        if mode not in MODES:
            raise OptionError(f"mode: {mode!r} is not one of {', '.join(MODES)}")
        self.recognizer = Recognizer(speech2text) if hasattr(speech2text, "asr_model") else speech2text
        rate = self.recognizer.rate
        self.longest = getattr(self.recognizer, "longest", math.inf)
        self.guarded = getattr(self.recognizer, "guard", False)
        if window is None:
            window = min(_WINDOW, self.longest / rate * 2 / 3)
        if not _SHORTEST <= window < math.inf:
            raise OptionError(f"window: {window:g} is not allowed: {_SHORTEST:g} seconds or more")
        overlap = window / 5 if overlap is None else overlap
        if not 0 <= overlap <= window / 2:
            raise OptionError(f"window {window:g} and overlap {overlap:g}: the overlap must be 0 to half a window")
        if mode == "vad":
            vad.check(rate)
        if mode != "whole" and window * rate > self.longest:
            raise OptionError(
                f"window {window:g}: the model hears no more than {self.longest / rate:g} seconds at once"
            )
        self.mode = mode
        self.window = round(window * rate)
        self.overlap = round(overlap * rate)

    def __call__(
        self,
        audio: Union[str, Path, np.ndarray, torch.Tensor, Recording],
        journal: Union[str, Path, None] = None,
        of: Optional[Dict[str, Any]] = None,
        progress: Optional[Callable[[float, float], None]] = None,
    ) -> Transcript:
        """Transcribe a recording.

        Args:
            audio: a file that libsndfile reads, or samples at the model's rate, (samples,)
            journal: a file to keep what is finished in; with it a killed call goes on where it was. One call at a time
            of: what else the journal belongs to, e.g. the model; a call with another is refused
            progress: called with the seconds that are finished and those of the whole: at first, with what the journal
                has, and after each piece that is heard

        Raises:
            AudioError: the recording cannot be read; see Recording. Or it is longer than what the model hears at once,
                and mode is whole
            JournalError: the journal is of another recording or other options, damaged, or in use; see Journal
        """
        if not isinstance(audio, Recording):
            with Recording(audio, self.recognizer.rate) as recording:
                return self(recording, journal, of, progress)
        if self.mode == "whole" and audio.length > self.longest:
            raise AudioError(
                f"{audio.name}: {audio.seconds:.1f} s, of which the model hears {self.longest / audio.rate:g} "
                "at once. Fix: mode windows"
            )
        if journal is None:
            return self._transcript(audio, Journal(None, {}), progress)
        # with vad they take a pass over the whole recording: there the journal's own are trusted
        pieces = None if self.mode == "vad" else self.pieces(audio)
        with Journal(journal, {**(of or {}), "recording": audio.identity(), **self._how()}, pieces) as kept:
            return self._transcript(audio, kept, progress, pieces)

    def _how(self) -> Dict[str, Any]:
        """Describe what the pieces of a recording, and what is heard in them, depend on."""
        how: Dict[str, Any] = {"version of espnet_rand": __version__, "mode": self.mode, "rate": self.recognizer.rate}
        if self.mode != "whole":
            how.update(window=self.window, overlap=self.overlap)
            if self.guarded:
                how["from_pauses"] = True
        if self.mode == "vad":
            how["vad"] = {"pause": vad.PAUSE, "margin": vad.MARGIN, "silero_vad": _silero_version()}
        return how

    def _transcript(
        self,
        audio: Recording,
        kept: Journal,
        progress: Optional[Callable[[float, float], None]],
        pieces: Optional[List[Piece]] = None,
    ) -> Transcript:
        """Hear the pieces that are not in the journal, and join all; `pieces`: where they are known already."""
        if kept.pieces is None:
            kept.begin(pieces or self.pieces(audio))
        words: List[Word] = []
        timed = True
        if progress is not None:
            progress(kept.pieces[len(kept.heard) - 1].stop / audio.rate if kept.heard else 0.0, audio.seconds)
        for i, piece in enumerate(kept.pieces):
            if i == len(kept.heard):
                kept.add(self._hear(audio, piece))
                if progress is not None:
                    progress(piece.stop / audio.rate, audio.seconds)
            heard = kept.heard[i].moved(piece.start / audio.rate)
            overlap_end = kept.pieces[i - 1].stop if i else 0
            words = join(words, heard, piece.start / audio.rate, overlap_end / audio.rate, timed)
            timed = heard.timed
        return Transcript(
            words,
            audio.seconds,
            all(h.timed for h in kept.heard),
            [*audio.notes, *self._unheard(audio, kept.pieces), *_notes(kept, audio.rate)],
        )

    def _unheard(self, audio: Recording, pieces: List[Piece]) -> List[str]:
        """The note on what silero-vad takes for no speech, in a recording in which somebody speaks."""
        if self.mode != "vad" or not pieces:
            return []
        ends = [0, *(piece.stop for piece in pieces)]
        heard = sum(piece.stop - max(piece.start, end) for piece, end in zip(pieces, ends))
        left = f"{(audio.length - heard) / audio.rate:.1f}"
        return [f"{left} s that silero-vad takes for no speech: not heard"] if left != "0.0" else []

    def pieces(self, recording: Recording) -> List[Piece]:
        """Cut a recording into the pieces that it is decoded in."""
        if self.mode == "whole":
            return [Piece(0, recording.length)]
        if self.mode == "vad":
            pieces = packed(vad.speech(recording), self.window, self.overlap)
        else:
            pieces = windows(0, recording.length, self.window, self.overlap)
        if not self.guarded:
            return pieces
        return [*pieces[:1], *(self._from_pause(recording, *pair) for pair in zip(pieces, pieces[1:]))]

    def _from_pause(self, recording: Recording, before: Piece, piece: Piece) -> Piece:
        """Let a piece begin where the first half of its overlap is quietest: Whisper loses what follows half a word."""
        shared = before.stop - piece.start  # below 0 where there is a pause between pieces of speech
        if shared // 2 < QUIET_SECONDS * recording.rate:
            return piece
        samples = recording.read(piece.start, piece.start + shared // 2)
        return piece._replace(start=piece.start + quietest(samples, recording.rate))

    def _hear(self, recording: Recording, piece: Piece) -> Heard:
        """Recognize the words of a piece, unless it is silent or too short."""
        samples = recording.read(*piece)
        if len(samples) < _SHORTEST * recording.rate:
            return Heard([], notes=("too short",))
        if np.abs(samples).max() <= _SILENCE:
            return Heard([], notes=("silent",))
        return self.recognizer(samples)


def _silero_version() -> Optional[str]:
    """The version of silero-vad; None: it is not installed."""
    try:
        return importlib.metadata.version("silero-vad")
    except importlib.metadata.PackageNotFoundError:
        return None


def _notes(kept: Journal, rate: int) -> List[str]:
    """The notes of the pieces, each once, with the seconds at which the first of its pieces begin."""
    if not kept.pieces:
        return ["no speech found"]
    starts: Dict[str, List[str]] = {}
    for piece, heard in zip(kept.pieces, kept.heard):
        for note in heard.notes:
            starts.setdefault(note, []).append(f"{piece.start / rate:.0f}")
    count = len(kept.pieces)
    return [
        f"{note} ({len(times)} of {count} pieces" + (f", at {few(times, _SHOWN)} s)" if len(times) < count else ")")
        for note, times in starts.items()
    ]
