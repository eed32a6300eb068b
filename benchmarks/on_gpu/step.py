"""One step of a visit (visit.py starts it): python step.py KIND WORD... --device DEVICE --output DIR."""

import argparse
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402
from results import Results  # noqa: E402
from table import circumstances  # noqa: E402

KINDS = {"tests": "device_tests", "training": "training_steps", "decoding": "packed_decoding"}


def machine(device: str) -> str:
    """The sentence about the machine that the tables begin with."""
    if device == "cpu":
        return f"{circumstances('benchmarks/gpu.sh --device cpu')}. A dry run: its figures say nothing."
    about = torch.cuda.get_device_properties(device)
    cuda = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{circumstances('benchmarks/gpu.sh')}; {about.name}, {about.total_memory / 2**30:.0f} GiB, {cuda}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("words", nargs="+", metavar="WORD")
    parser.add_argument("--device", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    results = Results(args.output)
    if not results.has("machine", "machine"):
        with results.keeping_errors("machine", "machine"):
            results.add("machine", "machine", text=machine(args.device))
    if not results.has("machine", "machine"):
        sys.exit(f"{args.device}: torch cannot compute there")
    complete = importlib.import_module(KINDS[args.kind]).run(results, args.device, *args.words)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
