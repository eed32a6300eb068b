"""What is said of a model that is shipped."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from espnet_rand.longform.joining import comparable
from espnet_rand.longform.scoring import count
from espnet_rand.reporting import markdown
from espnet_rand.shipping.example import Decoded
from espnet_rand.shipping.output import files_of
from espnet_rand.toolkit.recognition.words import unspaced


@dataclass(frozen=True)
class Figures:
    """What one model was measured at.

    Attributes:
        bytes: of its folder, without what is told here
        load_seconds: CPU seconds, on one thread, until it is ready
        real_time: CPU seconds of a second of sound, on one thread; None: there was too little sound to tell
        peak_bytes: of memory
        word_error_rate: percent; None: there are no transcripts
    """

    bytes: int
    load_seconds: float
    real_time: Optional[float]
    peak_bytes: int
    word_error_rate: Optional[float]


@dataclass(frozen=True)
class Report:
    """What report.json holds.

    Attributes:
        model, target, quantizer: what was shipped where, and how it was quantized
        reference: what the reference is: the float model, or the model as it was trained
        agreement: percent of the reference's words that what is shipped says as well: 100 less the word error rate
            against the reference's text, 0 at least
        words: of the reference's text
        errors: relative squared error of the outputs of the layers that err most, by the weight's name
        recordings: the keys of both parts and of those that are too long, and the seconds of those that were checked
    """

    model: str
    target: str
    quantizer: Dict[str, object]
    reference: str
    agreement: float
    words: int
    min_agreement: float
    figures: Dict[str, Figures]
    errors: Dict[str, float]
    recordings: Dict[str, Any]
    versions: Dict[str, str]
    advice: List[str]

    @property
    def agrees(self) -> bool:
        """Whether the agreement is what was asked for; of no words it is not, unless none was asked for."""
        return self.agreement >= self.min_agreement and (self.words > 0 or self.min_agreement == 0)

    def save(self, folder: Path) -> None:
        """Write report.json and README.md into a folder; report.json names all its files."""
        held = {**asdict(self), "files": sorted({*files_of(folder), "report.json", "README.md"})}
        text = json.dumps(held, indent=2, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self.readme(), encoding="utf-8")

    def table(self) -> str:
        """The figures, as a table."""
        header = ["", "MB", "WER %", "CPU s per s", "load, CPU s", "peak MB"]
        rows = []
        for name, one in self.figures.items():
            rate = "-" if one.word_error_rate is None else f"{one.word_error_rate:.2f}"
            sizes = f"{one.bytes / 1e6:.1f}", f"{one.peak_bytes / 1e6:.0f}"
            speed = "-" if one.real_time is None else f"{one.real_time:.3f}"
            rows.append([name, sizes[0], rate, speed, f"{one.load_seconds:.1f}", sizes[1]])
        return markdown(header, rows)

    def readme(self) -> str:
        """What the folder says of itself."""
        told = "".join(f"- {line}\n" for line in self.advice)
        worst = markdown(["weight", "error of outputs"], [[name, f"{e:.3%}"] for name, e in self.errors.items()])
        return (
            f"# {Path(self.model).name}, for {self.target}\n\n```sh\npython decode.py recording.wav\n```\n\n"
            f"{self.summary()}\n\n{self.table()}\n{told}\n"
            + (
                f"The layers whose outputs err most on the recordings of the calibration:\n\n{worst}"
                if self.errors
                else ""
            )
        )

    def summary(self) -> str:
        """The agreement, in a line."""
        return (
            f"{self.agreement:.1f}% of {self.words} words are those of the {self.reference} "
            f"({len(self.recordings['check'])} recordings, {self.recordings['seconds']:.0f} s)."
        )


def agreement(reference: Mapping[str, str], shipped: Mapping[str, str]) -> float:
    """Percent of the reference's words that are said, without case and punctuation; see Report."""
    words, errors = _errors(reference, shipped)
    return max(0.0, 100 - 100 * errors / words) if words else 100.0 * (errors == 0)


def figures(folder: Path, decoded: Decoded, seconds: float, texts: Optional[Mapping[str, str]]) -> Figures:
    """What was measured of the model in a folder, on recordings of so many seconds."""
    rate = None
    if texts is not None:
        words, errors = _errors({key: texts[key] for key in decoded.texts}, decoded.texts)
        rate = 100 * errors / words if words else None
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    speed = None if decoded.cpu_seconds is None else decoded.cpu_seconds / seconds
    return Figures(size, decoded.load_seconds, speed, decoded.peak_bytes, rate)


def number_of_words(texts: Mapping[str, str]) -> int:
    """Words of all texts."""
    return sum(len(_words(text).split()) for text in texts.values())


def _errors(reference: Mapping[str, str], said: Mapping[str, str]):
    counts = [count(_words(text), _words(said[key])) for key, text in reference.items()]
    return sum(one.words for one in counts), sum(one.errors for one in counts)


def _words(text: str) -> str:
    """A text for the comparison of words: those of a script without spaces are its characters."""
    spaced = "".join(f" {character} " if unspaced(character) else character for character in text)
    return " ".join(map(comparable, spaced.split()))
