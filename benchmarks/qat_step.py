"""Time and peak memory of one training step: float, RAND, the usual opponents, torchao's and brevitas's layers.

All are measured in one ESPnet Conformer (12 blocks, 256 wide, Transformer decoder of 6), one interleaved run: round
by round every method takes one step, so that a busy machine slows all alike. Prints medians as ratios
to float, and writes them beside this file. `make bench-packages` installs what it needs.

    python benchmarks/qat_step.py [--seconds 64] [--rounds 7] [--device cpu] [--threads 1]
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from rich.progress import track
from table import circumstances
from torch import nn

import espnet_rand
from espnet_rand.atomic import write_text
from espnet_rand.reporting import markdown

METHODS = {
    "float": None,
    "rand mode 1, pqn": {"quantizer": "rand", "quantizer_conf": {"mode": 1, "estimator": "pqn"}},
    "rand mode 2, pqn": {"quantizer": "rand", "quantizer_conf": {"mode": 2, "estimator": "pqn"}},
    "rand mode 2, ste": {"quantizer": "rand", "quantizer_conf": {"mode": 2, "estimator": "ste"}},
    "absmax, ste": {"quantizer": "absmax", "quantizer_conf": {"estimator": "ste"}},
    "lsc, ste": {"quantizer": "lsc", "quantizer_conf": {"init": "lsq+", "estimator": "ste"}},
}
TOKENS = ["<blank>", "<unk>", *(f"t{n}" for n in range(497)), "<sos/eos>"]


def build() -> nn.Module:
    """The ESPnet model, with random weights."""
    from espnet2.tasks.asr import ASRTask

    block = {"output_size": 256, "attention_heads": 4, "linear_units": 2048, "num_blocks": 12}
    options = {
        "token_list": TOKENS,
        "token_type": "char",
        "encoder": "conformer",
        "encoder_conf": {**block, "cnn_module_kernel": 31, "macaron_style": True, "use_cnn_module": True},
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 4, "linear_units": 2048, "num_blocks": 6},
        "model_conf": {"ctc_weight": 0.3, "report_cer": False, "report_wer": False},
        "normalize": None,
    }
    sys.argv = sys.argv[:1]
    defaults = ASRTask.get_default_config()
    return ASRTask.build_model(argparse.Namespace(**{**defaults, **options}))


def with_torchao(model: nn.Module) -> nn.Module:
    """Fake-quantize all linear layers to int4 by torchao, per channel (it has no other layers)."""
    from torchao.quantization.qat import IntxFakeQuantizeConfig
    from torchao.quantization.qat.linear import FakeQuantizedLinear

    config = IntxFakeQuantizeConfig(torch.int4, "per_channel", is_symmetric=True)
    return _replace_linears(
        model, lambda linear: FakeQuantizedLinear.from_linear(linear, activation_config=None, weight_config=config)
    )


def with_brevitas(model: nn.Module) -> nn.Module:
    """Fake-quantize all linear layers to 4 bits by brevitas, per channel, with a scale from the statistics."""
    from brevitas.nn import QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloat

    def make(linear):
        layer = QuantLinear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            weight_quant=Int8WeightPerChannelFloat,
            weight_bit_width=4,
        )
        layer.load_state_dict(linear.state_dict(), strict=False)
        return layer

    return _replace_linears(model, make)


def _replace_linears(model, make):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, make(child))
    return model


def batch(seconds: float, device: str) -> dict:
    """A batch of 16 s utterances of noise that make up `seconds`, with 60 tokens each."""
    count, samples = max(round(seconds / 16), 1), 16 * 16000
    return {
        "speech": 0.1 * torch.randn(count, samples, device=device),
        "speech_lengths": torch.full((count,), samples, device=device),
        "text": torch.randint(2, len(TOKENS) - 1, (count, 60), device=device),
        "text_lengths": torch.full((count,), 60, device=device),
    }


def step(model: nn.Module, optimizer: torch.optim.Optimizer, data: dict) -> float:
    """Run one training step; return the seconds that it takes."""
    synchronize = torch.cuda.synchronize if data["speech"].is_cuda else (lambda: None)
    synchronize()
    start = time.perf_counter()
    model(**data)[0].backward()
    optimizer.step()
    optimizer.zero_grad()
    synchronize()
    return time.perf_counter() - start


def peak_memory(model: nn.Module, optimizer: torch.optim.Optimizer, data: dict) -> int:
    """Bytes at the peak of one step: the allocator's on CUDA, else by the profiler."""
    if data["speech"].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        step(model, optimizer, data)
        return torch.cuda.max_memory_allocated()
    with torch.profiler.profile(profile_memory=True) as profile:
        step(model, optimizer, data)
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    held += sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values())
    return peak + held


def make_runs(device: str) -> dict:
    """The model and the optimizer of each method, by its name."""
    torch.manual_seed(0)
    stock = build()
    makers = {name: (lambda m, c=config: c and espnet_rand.quantize(m, c)) for name, config in METHODS.items()}
    makers["torchao int4 linears"] = with_torchao
    makers["brevitas 4-bit linears"] = with_brevitas
    runs = {}
    for name, make in makers.items():
        model = copy.deepcopy(stock)
        try:
            make(model)
        except ImportError as e:
            sys.exit(f"{name}: {e}. Fix: make bench-packages, or pip install -e '.[bench]'")
        model.to(device).train()
        runs[name] = (model, torch.optim.Adam(model.parameters(), lr=1e-5))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=64, help="of audio in a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    command = " ".join(["python", *sys.argv])
    torch.set_num_threads(args.threads)
    runs = make_runs(args.device)
    data = batch(args.seconds, args.device)
    for model, optimizer in runs.values():
        step(model, optimizer, data)
    times = {name: [] for name in runs}
    for _ in track(range(args.rounds), description="rounds"):
        for name, run in runs.items():
            times[name].append(step(*run, data))
    memory = {name: peak_memory(*run, data) for name, run in runs.items()}

    rows = []
    for name in runs:
        ratios = [t / f for t, f in zip(times[name], times["float"])]
        rows.append(
            [name, f"{statistics.median(times[name]):.3f}", f"{statistics.median(ratios):.3f}"]
            + [f"{min(ratios):.2f}..{max(ratios):.2f}", f"{memory[name] / 2**20:.0f}"]
            + [f"{memory[name] / memory['float']:.3f}"]
        )
    weights = sum(p.numel() for p in runs["float"][0].parameters())
    text = (
        f"# Cost of a training step\n\n{circumstances(command)}, {args.threads} thread(s), {args.device}; "
        f"{weights / 1e6:.1f} million weights, {args.seconds:g} s of audio a batch, {args.rounds} interleaved rounds. "
        "Ratios are to float in the same round (median, range).\n\n"
        + markdown(["method", "step, s", "ratio", "rounds' ratios", "peak, MiB", "ratio"], rows)
    )
    write_text(Path(__file__).with_name("qat_step.md"), text)
    print(text)


if __name__ == "__main__":
    main()
