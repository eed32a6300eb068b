"""Decoding of an encoder: packed codes by each backend, beside float and torchao's weight-only linear layers."""

import copy
import gc
import statistics
import time
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
from encoder import BANDS, SIZES, Encoder
from results import NotInstalled, Results
from torch import Tensor, nn

import espnet_rand
from espnet_rand.packing import PackedModel, load_into, pack_model


class Variant(NamedTuple):
    """Makes a model that decodes of the float one, or of codes made with the options; those are None for others."""

    make: Callable[[Encoder, Optional[PackedModel]], nn.Module]
    options: Optional[dict] = None


def _float(dtype: str) -> Variant:
    return Variant(lambda stock, packed: copy.deepcopy(stock).to(getattr(torch, dtype)))


def _loaded(stock: Encoder, packed: PackedModel, backend: str) -> Encoder:
    """The encoder with packed codes, in float32 else."""
    model = copy.deepcopy(stock)
    load_into(model, packed, backend, model.norm.weight.device)
    return model


def _packed(backend: str, **options) -> Variant:
    """Packed codes; all else computes in float16 on a GPU, in float32 on a CPU."""

    def make(stock, packed):
        model = _loaded(stock, packed, backend)
        return model.half() if model.norm.weight.is_cuda else model

    return Variant(make, options)


def _torchao(name: str, **options) -> Variant:
    """torchao's weight-only linear layers; all else computes in bfloat16."""

    def make(stock, packed):
        try:
            from torchao import quantization
        except ImportError:
            raise NotInstalled("torchao is not installed. Fix: pip install torchao") from None
        model = copy.deepcopy(stock).to(torch.bfloat16)
        # torchao would set float32 products of the whole process to TF32
        quantization.quantize_(model, getattr(quantization, name)(set_inductor_config=False, **options))
        return model

    return Variant(make)


_GROUPS = {"granularity": "group", "group_size": 32}
VARIANTS = {
    "float32": _float("float32"),
    "float16": _float("float16"),
    "bfloat16": _float("bfloat16"),
    "8 bits a channel, int8_dynamic": _packed("int8_dynamic", bits=8),
    "4 bits a channel, int8_dynamic": _packed("int8_dynamic", bits=4),
    "4 bits a channel, int4_weight_only": _packed("int4_weight_only", bits=4),
    "4 bits in groups of 32, int4_weight_only": _packed("int4_weight_only", bits=4, **_GROUPS),
    "4 bits in groups of 32, dequantize": _packed("dequantize", bits=4, **_GROUPS),
    "torchao, 8 bits": _torchao("Int8WeightOnlyConfig"),
    "torchao, 4 bits in groups of 32": _torchao(
        "Int4WeightOnlyConfig", group_size=32, int4_packing_format="tile_packed_to_4d"
    ),
}


@torch.no_grad()
def run(results: Results, device: str, size: str) -> bool:
    """Measure the variants that have no result; return whether all have one then."""
    width, _, _, frames = SIZES[size]
    torch.manual_seed(0)
    with torch.device(device):
        stock = Encoder(size).eval()
        inputs = torch.randn(1, BANDS, frames), torch.randn(1, 8 if device == "cpu" else 50, width)
    codes: Dict[str, PackedModel] = {}
    for variant, (make, options) in VARIANTS.items():
        name = f"{size} {variant}"
        if not results.has("decoding", name):
            with results.keeping_errors("decoding", name):
                packed = None
                if options is not None:
                    packed = codes.get(str(options)) or codes.setdefault(str(options), _pack(stock, options))
                exact = (_loaded(stock, packed, "dequantize") if packed else stock)(inputs[0])
                measured = _measured(lambda make=make, packed=packed: make(stock, packed), inputs, exact)
                results.add("decoding", name, case=[size, variant], **measured)
    return all(results.has("decoding", f"{size} {variant}") for variant in VARIANTS)


def _pack(stock: Encoder, options: dict) -> PackedModel:
    quantized = copy.deepcopy(stock)
    espnet_rand.quantize(quantized, {"quantizer": "absmax", "quantizer_conf": options})
    return pack_model(quantized)


def _measured(make: Callable[[], nn.Module], inputs: Tuple[Tensor, Tensor], exact: Tensor) -> Dict[str, Any]:
    """Frames a second, bytes (None on a CPU), and the distance to the exact outputs."""
    cuda = exact.is_cuda
    before = _allocated(cuda)
    model = make()
    weights = _allocated(cuda)
    dtype = model.norm.weight.dtype
    features, frames = (x.to(dtype) for x in inputs)
    y = model(features).float()
    whole = _seconds(lambda: model(features), cuda, 15)
    peak = torch.cuda.max_memory_allocated() if cuda else None
    alone = _seconds(lambda: model.one_by_one(frames), cuda, 3)
    return {
        "whole": y.shape[1] / whole,
        "frames": frames.shape[1] / alone,
        "distance": ((y - exact).norm() / exact.norm()).item(),
        "weights": weights - before if cuda else None,
        "peak": peak - before if cuda else None,
    }


def _allocated(cuda: bool) -> int:
    """The bytes on the GPU that are in use, from which on the peak is counted."""
    if not cuda:
        return 0
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _seconds(call: Callable[[], object], cuda: bool, rounds: int) -> float:
    """The median of the times of a call, once it was called."""
    wait = torch.cuda.synchronize if cuda else lambda: None
    times = []
    for _ in range(1 + rounds):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
