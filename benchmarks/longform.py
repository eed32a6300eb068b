"""Long recordings: real-time factor and peak memory against their length, whole and in windows, float and packed.

It decodes the test set of egs2/mini/asr1, over and over, with the models that were trained there (run that first). Each
measurement is a process of its own. One that would take more than --memory is ended, and says so. Prints a table, and
writes it beside this file.

    python benchmarks/longform.py [--seconds 30 60 120 300 600 1800 3600] [--window 10] [--memory 12]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import track
from table import circumstances

import espnet_rand
from espnet_rand.atomic import write_text
from espnet_rand.kaldi import read_lines
from espnet_rand.reporting import markdown

HERE = Path(__file__).resolve()
RECIPE = HERE.parents[1] / "egs2/mini/asr1"
RATE = 16000
#: name -> configuration and model file, in the recipe's exp/full
MODELS = {
    "float": ("float_tuned/config.yaml", "float_tuned/valid.loss.ave.pth"),
    "packed 4 bits": ("rand_w4_channel/config.yaml", "rand_w4_channel/packed.safetensors"),
}


def write_recording(path: Path, seconds: float, recipe: Path) -> None:
    """Write the test set into one recording, an utterance after the other, as often as it takes."""
    entries = [*read_lines(recipe / "data/full/test/wav.scp").values()]
    left = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        while left:
            for entry in entries:
                samples = soundfile.read(recipe / entry, dtype="int16")[0][:left]
                file.write(samples)
                left -= len(samples)


def measure(args: argparse.Namespace) -> None:
    """Print the seconds that decoding takes, and the peak of this process's memory, which is for this alone."""
    espnet_rand.register()
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_rand.longform import LongForm
    from espnet_rand.toolkit.recognition import Recognizer

    model, mode = args.measure
    config, file = MODELS[model]
    os.chdir(args.recipe)
    limit = round(args.memory * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    speech2text = Speech2Text(f"exp/full/{config}", f"exp/full/{file}", ctc_weight=1.0)
    long_form = LongForm(Recognizer(speech2text, ctc_greedy=True), mode=mode, window=args.window)
    long_form(np.zeros(RATE, np.float32) + 0.01)  # loads and decodes what is needed once
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    try:
        long_form(args.audio)
    except (MemoryError, RuntimeError) as e:
        if isinstance(e, RuntimeError) and "memory" not in str(e):
            raise
        print(json.dumps({}))
        return
    took = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"took": took, "peak": peak * 1024, "loaded": loaded * 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[30, 60, 120, 300, 600, 1800, 3600])
    parser.add_argument("--window", type=float, default=10.0)
    parser.add_argument("--memory", type=float, default=12.0, help="GB; more is too much")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="a copy of egs2/mini/asr1 that was run")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--audio", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args)
    for _, file in MODELS.values():
        if not (args.recipe / "exp/full" / file).exists():
            sys.exit(f"{args.recipe / 'exp/full' / file} is not there. Fix: make demo")
    command = " ".join(["python", *sys.argv])
    cases = [(seconds, mode, model) for seconds in args.seconds for mode in ("whole", "windows") for model in MODELS]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds, mode, model in track(cases, "long recordings"):
            audio = Path(folder) / f"{seconds:g}.wav"
            if not audio.exists():
                write_recording(audio, seconds, args.recipe)
            options = ["--measure", model, mode, "--audio", audio, "--window", args.window, "--memory", args.memory]
            process = [sys.executable, HERE, *options, "--recipe", args.recipe]
            done = subprocess.run(list(map(str, process)), stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            row = [f"{seconds:g}", mode, model]
            if found:
                row += [f"{found['took'] / seconds:.3f}", f"{found['peak'] / 1e6:.0f}"]
                row += [f"{(found['peak'] - found['loaded']) / 1e6:.0f}"]
            rows.append(row if found else [*row, f"more than {args.memory:g} GB", "-", "-"])
    text = (
        f"# Long recordings\n\n{circumstances(command)}; the trained Conformer of egs2/mini/asr1 (CTC, greedy), "
        f"windows of {args.window:g} s. Real-time factor: seconds of decoding for a second of audio. Peak memory: of "
        "the process, and what decoding adds to it.\n\n"
        + markdown(["seconds", "mode", "model", "real-time factor", "peak MB", "of decoding MB"], rows)
    )
    write_text(HERE.with_name("longform.md"), text)
    print(text)


if __name__ == "__main__":
    main()
