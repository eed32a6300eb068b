"""Long recordings by Whisper, in ESPnet and in what users would take instead, in one run.

Each system is a folder with a decode.py, which hears each recording as a whole file: ESPnet by asr_inference_long's
windows (float and packed) and by its own asr_inference, whose Whisper hears 30 seconds and no more; whisper.cpp and
faster-whisper by their own long form, with their defaults: timestamps, fallback on temperature, the text before as a
prompt. The weights are the same, as near in precision as the runtime comes. Errors are counted as asr_long.sh does.

    export WHISPER_CHECKPOINT=tiny.en.pt   # where config.yaml has whisper_model: local
    python benchmarks/long_runtimes.py --float tiny.en.pt --packed PACKED.safetensors --config config.yaml \\
        --data data/long_test_spoken/180s --name queen

Writes long_runtimes_NAME.md beside this file.
"""

import argparse
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from own_rounding import F16, float_whisper, write_ctranslate2, write_ggml
from table import circumstances

import espnet_rand
from espnet_rand.atomic import write_text
from espnet_rand.export import ggml
from espnet_rand.export.examples import write_example
from espnet_rand.kaldi import read_lines
from espnet_rand.longform.scoring import Score, score
from espnet_rand.packing import read_packed
from espnet_rand.reporting import markdown, text_cleaner

espnet_rand.register()
from espnet_rand.longform.audio import Recording  # noqa: E402
from espnet_rand.shipping import example  # noqa: E402
from espnet_rand.shipping.espnet_folder import write_espnet  # noqa: E402

HERE = Path(__file__).resolve().parent
# espnet2.bin.asr_inference: the same decode.py, without windows
_IMPORT = "from espnet_rand.longform import LongForm  # noqa: E402\n"
_LOCAL = str(HERE.parent / "egs2/prompts/asr1/local")
_WHOLE = """\
from collections import namedtuple
from typing import NamedTuple

import soundfile

Said = namedtuple("Said", "text")


class LongForm(NamedTuple):
    speech2text: object

    def __call__(self, path):
        samples, _ = soundfile.read(path, dtype="float32")
        return Said(self.speech2text(samples)[0][0])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--float", type=Path, required=True, help="a checkpoint of ESPnet, or openai-whisper's file")
    parser.add_argument("--packed", type=Path, required=True, help="packed, 4 bits, a scale for each 32 weights")
    parser.add_argument("--config", type=Path, required=True, help="config.yaml of both")
    parser.add_argument("--data", type=Path, required=True, help="a long test set: wav.scp, text")
    parser.add_argument("--name", required=True, help="of the table")
    parser.add_argument("--language", default="en")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="how many recordings, the first of the set; default: all")
    parser.add_argument("--systems", nargs="+", default=[""], help="parts of the names of those that are run")
    args = parser.parse_args()
    files = {key: Path(path) for key, path in [*read_lines(args.data / "wav.scp").items()][: args.limit]}
    clean = text_cleaner("whisper_en" if args.language == "en" else "whisper_basic")
    texts = read_lines(args.data / "text")
    references = {key: clean(texts[key]) for key in files}
    seconds = {key: _seconds(path) for key, path in files.items()}
    versions = ", ".join(f"{name} {version(name)}" for name in ("pywhispercpp", "faster-whisper", "ctranslate2"))
    rows: List[List[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, write in _systems(args, Path(temporary)).items():
            if not any(part in name for part in args.systems):
                continue
            folder = Path(temporary, name)
            folder.mkdir()
            write(folder)
            try:
                decoded = example.decode(folder, files, name, args.threads)
            except example.ExampleError as e:
                rows.append([name, f"fails: {e}"])
                continue
            heard = {key: clean(text) for key, text in decoded.texts.items()}
            found = score(name, args.name, seconds, references, {"": heard})
            rows.append([name, *_row(found, decoded, sum(seconds.values()))])
            print(rows[-1], flush=True)
    header = ["", "WER %", "ins %", "del %", "sub %", "dropped stretches", "repeated phrases", "CPU s per s"]
    header += ["load, CPU s", "peak MB"]
    text = (
        f"# Long recordings, {args.name}\n\n{circumstances(' '.join(['python', *sys.argv]))}, {versions}; "
        f"{len(files)} recordings, {sum(seconds.values()):.0f} s, one run.\n\n"
        f"{markdown(header, [row + [''] * (len(header) - len(row)) for row in rows])}"
    )
    write_text(HERE / f"long_runtimes_{args.name}.md", text)
    print(text)


def _seconds(path: Path) -> float:
    with Recording(path) as recording:
        return recording.seconds


def _row(found: Score, decoded: example.Decoded, seconds: float) -> List[str]:
    """The cells of a system."""
    (counts,) = found.runs.values()
    parts = (counts.insertions, counts.deletions, counts.substitutions)
    speed: Optional[float] = None if decoded.cpu_seconds is None else decoded.cpu_seconds / seconds
    return [
        f"{found.rates[0]:.2f}",
        *(f"{100 * part / counts.words:.2f}" for part in parts),
        str(counts.dropped),
        str(counts.repeated),
        "-" if speed is None else f"{speed:.3f}",
        f"{decoded.load_seconds:.1f}",
        f"{decoded.peak_bytes / 1e6:.0f}",
    ]


def _systems(args: argparse.Namespace, temporary: Path) -> Dict[str, Callable[[Path], None]]:
    """What writes the folder of each system, by the systems' names."""
    packed = read_packed(args.packed)
    state = _espnet_state(torch.load(args.float, map_location="cpu", weights_only=True))
    floats = temporary / "float.pth"
    torch.save(state, floats)
    whisper = float_whisper(state, packed.info.get("whisper", {}))

    def whisper_cpp(write: Callable[[Path], None]) -> Callable[[Path], None]:
        def write_both(folder: Path) -> None:
            write_example("whisper_cpp", folder, LANGUAGE=args.language, TIMESTAMPS=True)
            write(folder / "model.bin")

        return write_both

    def faster_whisper(kind: str) -> Callable[[Path], None]:
        def write_both(folder: Path) -> None:
            search = {"beam_size": 5}
            write_example("ctranslate2", folder, LANGUAGE=args.language, COMPUTE_TYPE=kind, SEARCH=search)
            write_ctranslate2(whisper, folder / "model")

        return write_both

    return {
        "ESPnet, windows, float": lambda folder: _write_espnet(args, floats, folder),
        "ESPnet, windows, float, beam 5": lambda folder: _write_espnet(args, floats, folder, beam=5),
        "ESPnet, windows, packed, 4 bits": lambda folder: _write_espnet(args, args.packed, folder),
        "ESPnet, asr_inference on the whole, float": lambda folder: _write_espnet(args, floats, folder, _WHOLE),
        "whisper.cpp, 4 bits, exported": whisper_cpp(lambda path: ggml.export(packed, path)),
        "whisper.cpp, f16": whisper_cpp(lambda path: write_ggml(whisper, path, F16)),
        "faster-whisper, int8 of its own, beam 5": faster_whisper("int8"),
        "faster-whisper, float, beam 5": faster_whisper("float32"),
    }


def _write_espnet(args: argparse.Namespace, file: Path, folder: Path, instead: str = "", beam: int = 1) -> None:
    """Write a folder of ESPnet's, whose decode.py knows `whisper_model: local`; `instead`: what LongForm is there."""
    write_espnet(file, args.config, "asr", folder)
    write_example("espnet", folder, SEARCH={"beam_size": beam, "ctc_weight": 0.0})
    text = (folder / "decode.py").read_text()
    assert _IMPORT in text
    text = text.replace(_IMPORT, f"sys.path.insert(0, {_LOCAL!r})\nimport whisper_local\n{instead or _IMPORT}")
    (folder / "decode.py").write_text(text)


def _espnet_state(saved: Dict[str, Any]) -> Dict[str, torch.Tensor]:
    """The weights under ESPnet's names."""
    if "model_state_dict" not in saved:
        return saved
    parts = re.compile(r"^(encoder|decoder)\.")
    return {parts.sub(r"\1.\1s.", name): tensor.float() for name, tensor in saved["model_state_dict"].items()}


if __name__ == "__main__":
    main()
