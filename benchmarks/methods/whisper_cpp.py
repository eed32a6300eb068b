"""What whisper.cpp makes of the grid's float models, by its own q4_0 and in half precision: the picture in README.md.

    python benchmarks/methods/whisper_cpp.py --task queen_bf16 --seeds 1 2 3

The grid must have trained the method `float` with these seeds. Writes a line for each file to
results/whisper_cpp/TASK.jsonl, with its bytes. What is there is not run again.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lines import append, finished  # noqa: E402
from own_rounding import F16, Q4_0, float_whisper, write_ggml  # noqa: E402
from tasks import TASKS  # noqa: E402
from training import float_weights  # noqa: E402

from espnet_rand.export.examples import write_example  # noqa: E402
from espnet_rand.kaldi import read_lines  # noqa: E402
from espnet_rand.shipping import example  # noqa: E402

KINDS = {"q4_0": Q4_0, "f16": F16}
AUDIO_CTX = 600  # frames of 20 ms: as much silence as the models were trained with, 12 s in all
HEADS = {"n_audio_head": 6, "n_text_head": 6}  # of tiny.en


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--task", choices=[name for name in TASKS if name.startswith(("queen", "prompts"))], required=True
    )
    parser.add_argument("--kinds", choices=list(KINDS), nargs="+", default=["q4_0"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    task = TASKS[args.task]()
    out = HERE / "results" / "whisper_cpp" / f"{args.task}.jsonl"
    out.parent.mkdir(exist_ok=True)
    done = {(line["kind"], line["seed"]) for line in finished(out) if line["start"] == task.start}
    listed = read_lines(task.directory / task.data / "test" / "wav.scp")
    files = {key: Path(path) for key, path in listed.items()}
    for seed in args.seeds:
        for kind in args.kinds:
            if (kind, seed) in done:
                continue
            weights = float_weights(HERE / "exp", args.task, task, False, task.float_rate, seed)
            if not weights.exists():
                raise SystemExit(
                    f"whisper_cpp.py: {weights} is not there. Fix: run grid.py, --methods float, --seeds {seed}"
                )
            line: Dict[str, Any] = {"task": args.task, "start": task.start, "kind": kind, "seed": seed}
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_ggml(
                    float_whisper(torch.load(weights, weights_only=True), HEADS), folder / "model.bin", KINDS[kind]
                )
                write_example("whisper_cpp", folder, AUDIO_CTX=AUDIO_CTX)
                line["bytes"] = (folder / "model.bin").stat().st_size
                texts = example.decode(folder, files, f"{kind}, seed {seed}").texts
            line["test"] = task.errors(task.test, [texts[sentence.key] for sentence in task.test])
            append(out, line)


if __name__ == "__main__":
    main()
