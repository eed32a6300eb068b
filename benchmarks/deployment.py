"""Deployment: one model in ESPnet and in the runtimes that it is exported to, in one run.

whisper: trained Whisper models of egs2/prompts: word error rate, size, speed, memory and load time, through the
decode.py that `espnet-rand ship` writes; ESPnet, whisper.cpp, CTranslate2 and sherpa-onnx with exported codes, beside
each runtime's own rounding of the float model. All decode greedily, one after another, in each round.

    python benchmarks/deployment.py whisper --float exp/tuned.1/valid.acc.best.pth --groups GROUPS.safetensors \\
        --channels CHANNELS.safetensors --data data/test/wav.scp,data/test/text

conformer: 12 blocks of 512 with CTC, random weights: torch, packed, and ONNX Runtime in all forms; in one process,
round by round.

    python benchmarks/deployment.py conformer

Writes deployment_whisper.md and deployment_conformer.md beside this file.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Tuple

import numpy as np
import onnxruntime
import torch
import yaml
from decoding import MODELS, TOKENS
from onnxruntime.quantization import QuantType, quantize_dynamic
from own_rounding import F16, Q4_0, float_whisper, write_ctranslate2, write_ggml, write_sherpa_onnx
from rich.progress import track
from table import circumstances

import espnet_rand
from espnet_rand.atomic import write_text
from espnet_rand.export import ctranslate2, ggml
from espnet_rand.export.examples import write_example
from espnet_rand.packing import PackedModel, pack_model, read_packed, write_packed
from espnet_rand.reporting import markdown

espnet_rand.register()
from espnet_rand.shipping import example, recordings, report  # noqa: E402
from espnet_rand.shipping.espnet_folder import write_espnet  # noqa: E402
from espnet_rand.toolkit.commands.checkpoints import find_task  # noqa: E402
from espnet_rand.toolkit.exporting import models, sherpa_whisper  # noqa: E402

HERE = Path(__file__).resolve().parent
# frames of 20 ms: 12 s
_CONTEXT = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rounds", type=int, default=1)
    common.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    kinds = parser.add_subparsers(required=True)
    of_whisper = kinds.add_parser("whisper", parents=[common])
    of_whisper.add_argument("--float", type=Path, required=True, help="its config.yaml is beside it")
    of_whisper.add_argument("--rand", type=Path, help="the checkpoint that --groups is packed from")
    of_whisper.add_argument("--groups", type=Path, required=True, help="packed, 4 bits, a scale for each 32 weights")
    of_whisper.add_argument("--channels", type=Path, required=True, help="packed, 8 bits, a scale for each channel")
    of_whisper.add_argument("--data", required=True, help="wav.scp,text")
    of_whisper.set_defaults(run=whisper)
    of_conformer = kinds.add_parser("conformer", parents=[common])
    of_conformer.add_argument("--seconds", type=float, default=10, help="of sound")
    of_conformer.set_defaults(run=conformer)
    args = parser.parse_args()
    args.run(args)


# Whisper: a folder with a decode.py for each system


def whisper(args: argparse.Namespace) -> None:
    lists = [Path(path) for path in args.data.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        (sounds := Path(temporary, "wav")).mkdir()
        (folders := Path(temporary, "systems")).mkdir()
        _write_systems(args, folders)
        heard = recordings.prepare(lists, 16000, 30 * 16000, 0, sys.maxsize, sounds)
        found: Dict[Tuple[str, int], List[report.Figures]] = {}
        texts: Dict[str, Dict[str, str]] = {}
        for _ in range(args.rounds):
            for threads in args.threads:
                for folder in sorted(folders.iterdir()):
                    decoded = example.decode(folder, heard.check, folder.name, threads)
                    figures = report.figures(folder, decoded, heard.seconds, heard.texts)
                    found.setdefault((folder.name, threads), []).append(figures)
                    texts.setdefault(folder.name, decoded.texts)
                    print(folder.name, threads, figures, flush=True)
    first = args.threads[0]
    header = [
        "",
        "MB",
        "WER %",
        "words as ESPnet, %",
        *(f"CPU s per s, {n} thr." for n in args.threads),
        "load, CPU s",
        "peak MB",
    ]
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        one = found[name, first][0]
        times = [statistics.median(f.real_time or 0.0 for f in found[name, n]) for n in args.threads]
        row = [name.partition(" ")[2], f"{one.bytes / 1e6:.1f}", f"{one.word_error_rate:.2f}"]
        row.append(f"{report.agreement(texts[_same_weights(name, texts)], texts[name]):.1f}")
        rows.append([*row, *(f"{t:.4f}" for t in times), f"{one.load_seconds:.1f}", f"{one.peak_bytes / 1e6:.0f}"])
    legend = "Words as ESPnet: that ESPnet says as well, with the weights that the file is made of.\n\n"
    text = (
        f"# Deployment, Whisper tiny.en on prompts\n\n{_circumstances()}; "
        f"{len(heard.check)} recordings, {heard.seconds:.0f} s, {args.rounds} rounds, greedy search. {legend}"
    )
    write_text(HERE / "deployment_whisper.md", text + markdown(header, rows))
    print(text + markdown(header, rows))


def _same_weights(name: str, systems: Iterable[str]) -> str:
    """The system of ESPnet with the weights that a runtime's file is made of."""
    kind = "8 bits per channel" if "int8, exported" in name or "8 bits" in name else "4 bits in groups"
    wanted = kind if "exported" in name or "packed" in name else "float"
    return next(system for system in systems if system.endswith(f"ESPnet, {'packed, ' * (wanted == kind)}{wanted}"))


def _write_systems(args: argparse.Namespace, folders: Path) -> None:
    """Write a folder for each system; their names begin with a number, in the order of the table."""
    config = args.float.parent / "config.yaml"
    groups, channels = read_packed(args.groups), read_packed(args.channels)
    heads = {"n_audio_head": 6, "n_text_head": 6, **groups.info.get("whisper", {})}
    state = torch.load(args.float, map_location="cpu")

    def folder(name: str, runtime: str, **constants: Any) -> Path:
        made = folders / f"{len([*folders.iterdir()]):02d} {name}"
        made.mkdir()
        if runtime != "espnet":
            write_example(runtime, made, **constants)
        return made

    for name, file in (
        ("ESPnet, float", args.float),
        ("ESPnet, packed, 4 bits in groups", args.groups),
        ("ESPnet, packed, 8 bits per channel", args.channels),
    ):
        made = folder(name, "espnet")
        write_espnet(file, config, "asr", made)
        write_example("espnet", made, SEARCH={"beam_size": 1})
    ggml.export(groups, folder("whisper.cpp, Q4_0, exported codes", "whisper_cpp") / "model.bin")
    made = folder("whisper.cpp, Q4_0, exported codes, 12 s heard", "whisper_cpp", AUDIO_CTX=_CONTEXT)
    ggml.export(groups, made / "model.bin")
    floats = {"the float model": state}
    if args.rand is not None:
        floats["the RAND checkpoint"] = _without_scales(torch.load(args.rand, map_location="cpu"))
    for name, one in floats.items():
        path = folder(f"whisper.cpp, its own q4_0 of {name}", "whisper_cpp") / "model.bin"
        write_ggml(float_whisper(one, heads), path, Q4_0)
    write_ggml(float_whisper(state, heads), folder("whisper.cpp, f16", "whisper_cpp") / "model.bin", F16)
    greedy = {"SEARCH": {"beam_size": 1, "without_timestamps": True}}
    ctranslate2.export(channels, folder("CTranslate2, int8, exported codes", "ctranslate2", **greedy) / "model")
    for name, kind in (("its own int8 of the float model", "int8"), ("float", "float32")):
        made = folder(f"CTranslate2, {name}", "ctranslate2", COMPUTE_TYPE=kind, **greedy)
        write_ctranslate2(float_whisper(state, heads), made / "model")
    sherpa_whisper.export(groups, folder("sherpa-onnx, exported codes, 4 bits in groups", "sherpa_onnx") / "model")
    sherpa_whisper.export(channels, folder("sherpa-onnx, exported codes, 8 bits", "sherpa_onnx") / "model")
    for name, rounded in (("its own int8 of the float model", True), ("float", False)):
        made = folder(f"sherpa-onnx, {name}", "sherpa_onnx")
        write_sherpa_onnx(state, heads, made / "model", rounded)


def _without_scales(state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("quantizer_scale")}


# Conformer: a function of speech for each system


class System(NamedTuple):
    """A model: the bytes of its file, what it computes log-probabilities by, and what sets its threads."""

    bytes: int
    compute: Callable[[np.ndarray], np.ndarray]


def conformer(args: argparse.Namespace) -> None:
    speech = np.random.default_rng(0).standard_normal((1, int(args.seconds * 16000))).astype(np.float32) * 0.1
    times: Dict[Tuple[str, int], List[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = _write_conformers(folder)
        for threads in args.threads:
            torch.set_num_threads(threads)
            systems = _load_conformers(folder, files, threads)
            outputs = {name: system.compute(speech) for name, system in systems.items()}
            for _ in track(range(args.rounds), f"rounds, {threads} threads"):
                for name, system in systems.items():
                    start = time.perf_counter()
                    system.compute(speech)
                    times.setdefault((name, threads), []).append(time.perf_counter() - start)
        rows = _conformer_rows(args, systems, outputs, times)
    header = ["", "MB", *(f"x torch float, {n} thr." for n in args.threads), "error to the decoded codes"]
    text = (
        f"# Deployment, a Conformer of 12 x 512 with CTC\n\n{_circumstances()}; "
        f"random weights, {args.seconds:g} s of sound, medians of "
        f"{args.rounds} rounds. Error: rms of the log-probabilities, relative to their standard deviation, against the "
        "decoded weights in torch.\n\n"
    )
    write_text(HERE / "deployment_conformer.md", text + markdown(header, rows))
    print(text + markdown(header, rows))


# how weights are packed, by the beginning of a system's name
PACKINGS = {
    "4 bits per channel": {"bits": 4},
    "8 bits per channel": {"bits": 8},
    "4 bits in groups of 32": {"bits": 4, "granularity": "group", "group_size": 32},
    "2 bits in groups of 32": {"bits": 2, "granularity": "group", "group_size": 32},
}


def _build(folder: Path, file: Any = None) -> Any:
    return find_task("asr").build_model_from_file(folder / "config.yaml", file)


def _write_conformers(folder: Path) -> Dict[str, Path]:
    """Write checkpoints, packed files and ONNX files; returns them by the systems' names."""
    sys.argv, argv = sys.argv[:1], sys.argv
    stock = {**find_task("asr").get_default_config(), "token_list": TOKENS, "token_type": "char", "normalize": None}
    sys.argv = argv
    config = {**stock, **MODELS["conformer"].config, "decoder": None, "model_conf": {"ctc_weight": 1.0}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    model, trained = _build(folder)
    torch.save(model.state_dict(), folder / "float.pth")
    files = {"torch, float": folder / "float.pth"}
    _onnx(folder, "ort_float", PackedModel({}, model.state_dict()), folder / "float.pth", files, "ONNX Runtime, float")
    own = folder / "own.onnx"
    quantize_dynamic(files["ONNX Runtime, float"], own, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    files["ONNX Runtime, its own int8"] = own
    for name, options in PACKINGS.items():
        model, _ = _build(folder, folder / "float.pth")
        espnet_rand.quantize(model, {"quantizer": "absmax", "quantizer_conf": options})
        path = folder / f"{name.replace(' ', '_')}.safetensors"
        write_packed(path, pack_model(model))
        files[f"torch, packed, {name}"] = path
        _onnx(folder, path.stem, read_packed(path), path, files, f"ONNX Runtime, {name}")
        _onnx(folder, f"{path.stem}_exact", read_packed(path), path, files, f"ONNX Runtime, {name}, exact", exact=True)
    return files


def _onnx(
    folder: Path, stem: str, packed: PackedModel, file: Path, files: Dict[str, Path], name: str, exact: bool = False
) -> None:
    os.environ["ESPNET_RAND_PACKED_BACKEND"] = "dequantize"  # what is written is compared with it
    model, trained = _build(folder, file)
    times, about = models.measure(model, trained, 30), models.describe(model, file)
    (folder / stem).mkdir()
    models.export(model.eval(), packed, folder / stem, times, about, exact)
    files[name] = folder / stem / "model.onnx"


def _load_conformers(folder: Path, files: Dict[str, Path], threads: int) -> Dict[str, System]:
    systems = {}
    for name, path in files.items():
        if path.suffix == ".onnx":
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            compute = _ort(session)
        else:
            os.environ["ESPNET_RAND_PACKED_BACKEND"] = "auto"
            compute = _torch(_build(folder, path)[0].eval())
        systems[name] = System(path.stat().st_size, compute)
    os.environ["ESPNET_RAND_PACKED_BACKEND"] = "dequantize"
    for name in PACKINGS:
        path = files[f"torch, packed, {name}"]
        systems[f"torch, decoded, {name}"] = System(path.stat().st_size, _torch(_build(folder, path)[0].eval()))
    return systems


def _ort(session: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda speech: session.run(None, {"speech": speech})[0]


def _torch(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    def compute(speech: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            frames, _ = model.encode(torch.from_numpy(speech), torch.tensor([speech.shape[1]]))
            return model.ctc.log_softmax(frames).numpy()

    return compute


def _conformer_rows(args: argparse.Namespace, systems: Any, outputs: Any, times: Any) -> List[List[str]]:
    rows = []
    for name, system in systems.items():
        speeds = []
        for threads in args.threads:
            mine, stock = times[name, threads], times["torch, float", threads]
            speeds.append(f"{statistics.median(b / a for a, b in zip(mine, stock)):.2f}")
        packing = next((packing for packing in PACKINGS if packing in name), None)
        truth = outputs[f"torch, decoded, {packing}"] if packing else outputs["torch, float"]
        error = float(np.sqrt(np.square(outputs[name] - truth).mean()) / truth.std())
        rows.append([name, f"{system.bytes / 1e6:.1f}", *speeds, f"{error:.1e}"])
    return rows


def _circumstances() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    found = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16") if flag in flags]
    versions = {name: version(name) for name in ("onnxruntime", "pywhispercpp", "faster-whisper", "sherpa-onnx")}
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{circumstances(' '.join(['python', *sys.argv]))}, {' '.join(found)}, {told}"


if __name__ == "__main__":
    main()
