"""Decoding: file, memory, load time and speed of float32, ESPnet's dynamic int8 and packed models, in one run.

ESPnet's own Speech2Text decodes: models of the size of a LibriSpeech recipe's, with random weights, and the trained
ones of egs2/mini/asr1 (run that first; 4 and 2 bits by RAND, 8 by rounding). All variants of a model are timed in one
process, round by round, so that a busy machine slows all alike. Memory and load time are measured in a process for
each. Prints medians, and writes them beside this file.

    python benchmarks/decoding.py [--model conformer] [--seconds 10] [--rounds 5] [--threads 1 2]
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional

import jiwer
import soundfile
import torch
import yaml
from rich.progress import track
from table import circumstances

import espnet_rand
from espnet_rand.atomic import write_text
from espnet_rand.kaldi import read_lines
from espnet_rand.packing import pack_model, write_packed
from espnet_rand.reporting import markdown

espnet_rand.register()
from espnet_rand.toolkit.commands.checkpoints import find_task  # noqa: E402
from espnet_rand.toolkit.hooks.packed import without_weights  # noqa: E402

TOKENS = ["<blank>", "<unk>", *(f"t{n}" for n in range(4997)), "<sos/eos>"]
RECIPE = Path(__file__).resolve().parents[1] / "egs2/mini/asr1"


@dataclass(frozen=True)
class Model:
    """A benchmark's model: its task, the module with its Speech2Text, the options of that; and its configuration.

    Without a configuration it is the recipe's, and error rates are measured.
    """

    task: str
    module: str
    search: Dict[str, Any]
    config: Optional[Dict[str, Any]] = None


MODELS = {
    "conformer": Model(
        "asr",
        "espnet2.bin.asr_inference",
        {"beam_size": 5, "maxlenratio": -20.0},
        {
            "encoder": "conformer",
            "encoder_conf": {
                "output_size": 512,
                "attention_heads": 8,
                "linear_units": 2048,
                "num_blocks": 12,
                "cnn_module_kernel": 31,
                "macaron_style": True,
                "use_cnn_module": True,
                "rel_pos_type": "latest",
            },
            "decoder": "transformer",
            "decoder_conf": {"attention_heads": 8, "linear_units": 2048, "num_blocks": 6},
            "model_conf": {"ctc_weight": 0.3},
        },
    ),
    "transducer": Model(
        "asr_transducer",
        "espnet2.bin.asr_transducer_inference",
        {"beam_size": 5},
        {
            "encoder_conf": {
                "body_conf": [
                    {
                        "block_type": "conformer",
                        "hidden_size": 512,
                        "linear_size": 2048,
                        "heads": 8,
                        "conv_mod_kernel_size": 31,
                        "num_blocks": 12,
                    }
                ]
            },
            "decoder": "rnn",
            "decoder_conf": {"embed_size": 512, "hidden_size": 512},
            "joint_network_conf": {"joint_space_size": 640},
        },
    ),
    "mini": Model("asr", "espnet2.bin.asr_inference", {"beam_size": 2, "ctc_weight": 1.0}),
}
# name -> file, backend, options of Speech2Text
VARIANTS = {
    "float32": ("float.pth", "auto", {}),
    "ESPnet dynamic int8": ("float.pth", "auto", {"quantize_asr_model": True}),
    **{f"packed {bits} bits": (f"w{bits}.safetensors", "auto", {}) for bits in (8, 4, 2)},
    "packed 4 bits, int4_weight_only": ("w4.safetensors", "int4_weight_only", {}),
    "packed 4 bits, dequantize": ("w4.safetensors", "dequantize", {}),
}


def make(model: Model, directory: Path) -> None:
    """Make a configuration, a float checkpoint and packed files: with random weights, or the recipe's."""
    task = find_task(model.task)
    if model.config is None:
        trained = RECIPE / "exp/full"
        files = {"float.pth": "float_tuned/valid.loss.ave.pth", "config.yaml": "float_tuned/config.yaml"}
        files.update({f"w{bits}.safetensors": f"rand_w{bits}_channel/packed.safetensors" for bits in (4, 2)})
        for name, source in files.items():
            if not (trained / source).exists():
                sys.exit(f"{trained / source} is not there. Fix: make demo")
            shutil.copy(trained / source, directory / name)
        config = yaml.safe_load((directory / "config.yaml").read_text())
        config["normalize_conf"]["stats_file"] = str(RECIPE / config["normalize_conf"]["stats_file"])
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
    else:
        sys.argv = sys.argv[:1]
        stock = {**task.get_default_config(), "token_list": TOKENS, "token_type": "char", "normalize": None}
        (directory / "config.yaml").write_text(yaml.safe_dump({**stock, **model.config}))
        torch.manual_seed(0)
        built, _ = task.build_model_from_file(directory / "config.yaml")
        torch.save(built.state_dict(), directory / "float.pth")
    for bits in (8, 4, 2):
        path = directory / f"w{bits}.safetensors"
        if not path.exists():
            built, _ = task.build_model_from_file(directory / "config.yaml", directory / "float.pth")
            espnet_rand.quantize(built, espnet_rand.QuantizerConfig("absmax", bits=bits))
            write_packed(path, pack_model(built))


def load(model: Model, variant: str, directory: Path):
    """Load ESPnet's Speech2Text of a variant."""
    file, backend, options = VARIANTS[variant]
    os.environ["ESPNET_RAND_PACKED_BACKEND"] = backend
    module = importlib.import_module(model.module)
    return module.Speech2Text(directory / "config.yaml", directory / file, **model.search, **options)


def error_rate(speech2text) -> float:
    """Decode the recipe's test set; return the word error rate in percent."""
    torch.set_num_threads(1)
    data = RECIPE / "data/full/test"
    texts = read_lines(data / "text")
    heard = {}
    for key, path in read_lines(data / "wav.scp").items():
        heard[key] = speech2text(soundfile.read(RECIPE / path, dtype="float32")[0])[0][0]
    return 100 * jiwer.wer(list(texts.values()), [heard[key] for key in texts])


def encode(speech2text, speech: torch.Tensor) -> None:
    """Run the encoder alone."""
    with torch.no_grad():
        speech2text.asr_model.encode(speech[None], torch.tensor([len(speech)]))


def measure_memory(model: Model, variant: str, directory: Path, seconds: float) -> None:
    """Print the load time in seconds, and the bytes that loading and decoding add at their peaks.

    It takes a process of its own. The model is built once before, empty: what Python imports for that is not counted.
    """
    importlib.import_module(model.module)
    with without_weights():
        find_task(model.task).build_model_from_file(directory / "config.yaml")

    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    torch.set_num_threads(1)
    torch.randn(64, 64) @ torch.randn(64, 64)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak(), time.perf_counter()
    speech2text = load(model, variant, directory)
    took, loaded = time.perf_counter() - start, peak() - before
    Path("/proc/self/clear_refs").write_text("5")
    speech2text(torch.randn(int(seconds * 16000)) * 0.1)
    print(json.dumps({"load": took, "loaded": loaded, "decoding": peak() - before}))


def in_a_process(name: str, variant: str, directory: Path, seconds: float) -> dict:
    """Run `measure_memory` in a process; return what it prints."""
    command = [sys.executable, __file__, "--model", name, "--seconds", seconds]
    command += ["--measure", variant, "--directory", directory]
    # memory of tensors that are freed goes back to the system at once, and is not counted again
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{variant}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def timings(systems: dict, seconds: float, rounds: int, threads: list) -> dict:
    """Measure the seconds of each round, by (variant, what, threads)."""
    speech = torch.randn(int(seconds * 16000)) * 0.1
    times: dict = {}
    for _ in track(range(rounds + 1), "rounds"):  # the first warms up
        for count in threads:
            torch.set_num_threads(count)
            for variant, speech2text in systems.items():
                for what, call in (("encode", lambda s: encode(s, speech)), ("decode", lambda s: s(speech))):
                    start = time.perf_counter()
                    call(speech2text)
                    times.setdefault((variant, what, count), []).append(time.perf_counter() - start)
    return {key: values[1:] for key, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS], default="conformer")
    parser.add_argument("--seconds", type=float, default=10, help="of audio")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--measure", choices=[*VARIANTS], help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    model = MODELS[args.model]
    if args.measure:
        return measure_memory(model, args.measure, args.directory, args.seconds)
    command = " ".join(["python", *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        make(model, directory)
        memory = {
            variant: in_a_process(args.model, variant, directory, args.seconds)
            for variant in track([*VARIANTS], "memory")
        }
        systems = {variant: load(model, variant, directory) for variant in VARIANTS}
        times = timings(systems, args.seconds, args.rounds, args.threads)
        errors = {} if model.config else {v: error_rate(systems[v]) for v in track([*VARIANTS], "error rates")}
        sizes = {variant: (directory / file).stat().st_size for variant, (file, _, _) in VARIANTS.items()}
    text = (
        f"# Decoding, {args.model}\n\n{circumstances(command)}; {'trained' if errors else 'random'} weights, "
        f"{args.seconds:g} s of audio, {args.rounds} interleaved rounds. Speed: real-time factor (median), and how "
        "many times faster than float32 in the same round. decode: encoding and search "
        f"({', '.join(f'{k} {v:g}' for k, v in model.search.items())}).\n\n"
        + make_table(sizes, memory, times, errors, args.seconds, args.threads)
    )
    write_text(Path(__file__).with_name(f"decoding_{args.model}.md"), text)
    print(text)


def make_table(sizes: dict, memory: dict, times: dict, errors: dict, seconds: float, threads: list) -> str:
    """The figures of all variants in Markdown."""
    header = ["", "file MB", "load s", "peak MB loading", "peak MB decoding"]
    header += [f"{what}, {n} thr." for what in ("encode", "decode") for n in threads]
    if errors:
        header.append("WER %")
    rows = []
    for variant in VARIANTS:
        m = memory[variant]
        row = [variant, f"{sizes[variant] / 1e6:.1f}", f"{m['load']:.1f}"]
        row += [f"{m['loaded'] / 1e6:.0f}", f"{m['decoding'] / 1e6:.0f}"]
        for what in ("encode", "decode"):
            for n in threads:
                mine, stock = (times[v, what, n] for v in (variant, "float32"))
                speed = statistics.median(b / a for a, b in zip(mine, stock))
                row.append(f"{statistics.median(mine) / seconds:.3f} ({speed:.2f}x)")
        if errors:
            row.append(f"{errors[variant]:.2f}")
        rows.append(row)
    return markdown(header, rows)


if __name__ == "__main__":
    main()
