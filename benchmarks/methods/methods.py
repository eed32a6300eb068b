"""The methods of the comparison: what each does to a float model before it is trained."""

import copy
import functools
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type, Union

import torch
from estimators import RoundedHalf, Ternary, set_grid
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

import espnet_rand
from espnet_rand.calibration import calibrate
from espnet_rand.distillation import Distillation
from espnet_rand.quantizers import Grid, StraightThrough
from espnet_rand.quantizers.estimator import Estimator

GROUP_SIZE = 64
EMBEDDING = "*token_embedding"  # Whisper's; as options, each model's own

# the cells' granularities, as options; mixed and column: a scale a channel, but in the embedding
GRANULARITIES: Dict[str, Dict[str, Any]] = {
    "channel": {"granularity": "channel"},
    "tensor": {"granularity": "tensor"},
    "group": {"granularity": "group", "group_size": GROUP_SIZE},
    "group32": {"granularity": "group", "group_size": 32},
    "mixed": {"granularity": "channel", "overrides": {EMBEDDING: {"granularity": "group", "group_size": 32}}},
    "column": {"granularity": "channel", "overrides": {EMBEDDING: {"granularity": "column"}}},
}
# the same with other grids, and with rotated inputs: group32_signed, group32_rotated, group32_signed_rotated, ...
for _name, _options in [*GRANULARITIES.items()]:
    for _grid in ("", "signed", "half_step", "asymmetric"):
        for _turned in ("", "rotated"):
            if _grid or _turned:
                _own = {"grid": _grid or "symmetric", "rotation": "hadamard" if _turned else "none"}
                GRANULARITIES["_".join(filter(None, (_name, _grid, _turned)))] = {**_options, **_own}


def _embeddings(model: nn.Module) -> List[str]:
    """The names of a model's embeddings, and of the layers that share their weights."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [name for name, module in model.named_modules() if id(getattr(module, "weight", None)) in tables]


def _calibrate(model: nn.Module, forward: Callable[[nn.Module], Any], propagate: bool = False) -> None:
    calibrate(model, functools.partial(forward, model), propagate=propagate)


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Attributes:
        text: its name in the tables
        options: `quantizer` and `quantizer_conf`, bits and granularity apart; None: not by this project
        trains: whether it trains; False: it quantizes the model that `float` trained
        tuned: whether training begins with the model that `float` trained, with the same seed, at its rate in the task
        other: quantizes (model, names of weights, bits, granularity) without this project; it may return
            a function to call between training and evaluation
        granularities: the granularities that it knows
        scale_rate: factor on the learning rate of learned scales
        estimators: part of the steps -> estimator that takes the place of the options' from there on
        distillation: the weights of the loss, where it is distilled from the float model that training starts from
        calibrated: `before` or `after`: when sentences of the training set choose its scales and codes
        calibrator: the way in which they do (quantized model, function that runs a model on them)
        grid: the grid of the codes; None: the options'
        cotrained: the weights of the loss, where the float weights learn in the same steps, and are what is imitated
        length: factor on the task's steps
        unlabelled: whether it is distilled on further audio, too, with what the teacher hears there
        drawn: bits, the most first, one of which is drawn for each step: one model, evaluated at each of them
    """

    text: str
    options: Optional[Dict[str, Any]] = None
    trains: bool = True
    tuned: bool = False
    other: Optional[Callable[[nn.Module, List[str], int, str], Optional[Callable[[], Any]]]] = None
    granularities: Tuple[str, ...] = tuple(GRANULARITIES)
    scale_rate: float = 1.0
    estimators: Mapping[float, Estimator] = field(default_factory=dict, hash=False)
    distillation: Optional[Distillation] = None
    calibrated: Optional[str] = None
    calibrator: Callable[[nn.Module, Callable[[nn.Module], Any]], Any] = _calibrate
    grid: Optional[Type[Grid]] = None
    cotrained: Optional[Distillation] = None
    length: float = 1.0
    unlabelled: bool = False
    drawn: Tuple[int, ...] = ()

    def apply(
        self, model: nn.Module, bits: int, granularity: str, forward: Callable[[nn.Module], Any]
    ) -> Callable[[], Any]:
        """Quantize a float model in place (`float` leaves it as it is); return a function to call before evaluation.

        `forward` runs a model on sentences of the training set.
        """
        if self.options is not None:
            espnet_rand.quantize(model, _with_precision(self.options, model, list(self.drawn) or bits, granularity))
            if self.grid:
                set_grid(model, self.grid)
            if self.calibrated == "before":
                self.calibrator(model.eval(), forward)
            elif self.calibrated == "after":
                return lambda: self.calibrator(model.eval(), forward)
        elif self.other is not None:
            return self.other(model, quantizable(model), bits, granularity) or _nothing
        return _nothing


def _nothing() -> None:
    pass


def _with_precision(
    options: Dict[str, Any], model: nn.Module, bits: Union[int, List[int]], granularity: str
) -> Dict[str, Any]:
    conf = {"bits": bits, **GRANULARITIES[granularity], **options.get("quantizer_conf", {})}
    overrides = dict(conf.get("overrides", {}))
    if own := overrides.pop(EMBEDDING, None):
        conf["overrides"] = {**overrides, **dict.fromkeys(_embeddings(model), own)}
    return {"quantizer": options["quantizer"], "quantizer_conf": conf}


def quantizable(model: nn.Module) -> List[str]:
    """The names of the weights that espnet_rand quantizes, so that others quantize the same."""
    report = espnet_rand.quantize(copy.deepcopy(model), espnet_rand.QuantizerConfig("absmax"))
    return [entry.name for entry in report.quantized]


def latent(model: nn.Module, name: str) -> Tensor:
    """The float weight under a quantized one, as a matrix; `name` is one of `quantizable`."""
    module, _, weight = name.rpartition(".")
    layer = model.get_submodule(module)
    if hasattr(layer, "parametrizations"):
        return layer.parametrizations[weight].original.detach().flatten(1)
    return layer._parameters[weight].detach().flatten(1)


class _Rows(nn.Module):
    """Quantizes any weight by a quantizer of matrices; zeros fill its rows up to a multiple of `group`."""

    def __init__(self, quantizer: Callable[[Tensor], Tensor], group: int):
        super().__init__()
        self.quantizer = quantizer
        self.group = group

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        filled = nn.functional.pad(matrix, (0, -matrix.shape[1] % self.group))
        return self.quantizer(filled)[:, : matrix.shape[1]].reshape(weight.shape)


class _Columns(nn.Module):
    """Quantizes the columns of a matrix by a quantizer of matrices."""

    def __init__(self, quantizer: Callable[[Tensor], Tensor]):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, weight: Tensor) -> Tensor:
        return self.quantizer(weight.t()).t()


def _parametrize(
    model: nn.Module,
    names: List[str],
    granularity: str,
    make: Callable[[Tensor], Callable[[Tensor], Tensor]],
    group: int = 1,
) -> None:
    for name in names:
        module, _, weight = name.rpartition(".")
        layer = model.get_submodule(module)
        matrix = getattr(layer, weight).detach().flatten(1)
        by_columns = granularity == "column" and fnmatchcase(module, EMBEDDING)
        quantizer = _Columns(make(matrix.t().contiguous())) if by_columns else _Rows(make(matrix), group)
        register_parametrization(layer, weight, quantizer)


def _torchao(model: nn.Module, names: List[str], bits: int, granularity: str) -> None:
    """Quantize all weights by the fake quantizer of torchao's QAT linear layers."""
    from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

    group = GROUP_SIZE if granularity == "group" else None
    config = IntxFakeQuantizeConfig(
        getattr(torch, f"int{bits}"), "per_group" if group else "per_channel", is_symmetric=True, group_size=group
    )
    _parametrize(model, names, granularity, lambda matrix: IntxFakeQuantizer(config), group or 1)


class _Brevitas(nn.Module):
    def __init__(self, matrix: Tensor, bits: int, granularity: str):
        super().__init__()
        from brevitas.inject.enum import ScalingImplType
        from brevitas.nn import QuantLinear
        from brevitas.quant import Int8WeightPerChannelFloatMSE, Int8WeightPerTensorFloatMSE

        quant = Int8WeightPerTensorFloatMSE if granularity == "tensor" else Int8WeightPerChannelFloatMSE
        layer = QuantLinear(
            matrix.shape[1],
            matrix.shape[0],
            bias=False,
            weight_quant=quant.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS, narrow_range=False),
            weight_bit_width=bits,
        )
        layer.load_state_dict({"weight": matrix}, strict=False)  # the weights that the scale starts from
        layer.to(matrix.device)
        self.quant = layer.weight_quant

    def forward(self, matrix: Tensor) -> Tensor:
        return self.quant(matrix).value


def _brevitas(model: nn.Module, names: List[str], bits: int, granularity: str) -> None:
    """Quantize by brevitas, to all 2^bits codes, with a learned scale that starts where the squared error is least."""
    _parametrize(model, names, granularity, lambda matrix: _Brevitas(matrix, bits, granularity))


def _diffq(model: nn.Module, names: List[str], bits: int, granularity: str) -> Callable[[], Any]:
    """Quantize by DiffQ's noise and quantizer, with fixed bits. (CC BY-NC 4.0: not a dependency.)"""
    from diffq import DiffQuantizer

    others = [name for name, _ in model.named_parameters() if name not in names]
    quantizer = DiffQuantizer(
        model, 0, group_size=0, min_bits=bits - 0.1, init_bits=bits, max_bits=bits + 0.1, exclude=others
    )
    quantizer.no_optimizer()
    for name, parameter in model.named_parameters():
        if name.endswith("_diffq"):
            parameter.requires_grad_(False)

    def finish():
        quantizer.quantize()
        quantizer.detach()  # (it would restore the float weights after each forward)

    return finish


_INIT = {"rand": {"init": "norm"}, "lsc": {"init": "lsq+"}}  # where a method does not say it


def _ours(scale: str, estimator: str = "ste", **conf: Any) -> Dict[str, Any]:
    return {"quantizer": scale, "quantizer_conf": {"estimator": estimator, **_INIT.get(scale, {}), **conf}}


METHODS: Dict[str, Method] = {
    "float": Method("float"),
    "round": Method("`float`, rounded", _ours("absmax"), trains=False),
    "search": Method("`float`, rounded with clip search", _ours("clip"), trains=False),
    "calibrated": Method(
        "`float`, calibrated (GPTQ)", _ours("rand", mode=3, init="clip"), trains=False, calibrated="before"
    ),
    "ste": Method("straight-through", _ours("absmax")),
    "clip": Method("straight-through, clip search", _ours("clip")),
    "lsc_lsq": Method("learnable scale and clip (LSQ)", _ours("lsc", init="lsq")),
    "lsc_lsq+": Method("learnable scale and clip (LSQ+)", _ours("lsc")),
    "lsc_clip": Method("learnable scale and clip, from clip search", _ours("lsc", init="clip")),
    "pqn": Method("noise", _ours("absmax", "pqn")),
    "rand_m1_pqn": Method("RAND mode 1, noise", _ours("rand", "pqn", mode=1)),
    "rand_m2_pqn": Method("RAND mode 2, noise", _ours("rand", "pqn", mode=2)),
    "rand_m3_pqn": Method("RAND mode 3, noise", _ours("rand", "pqn", mode=3, init="clip")),
    "rand_m1_ste": Method("RAND mode 1, straight-through", _ours("rand", mode=1)),
    "rand_m2_ste": Method("RAND mode 2, straight-through", _ours("rand", mode=2)),
    "rand_m3_ste": Method("RAND mode 3, straight-through", _ours("rand", mode=3, init="clip")),
    "torchao": Method("torchao's fake quantization", other=_torchao, granularities=("channel", "group", "column")),
    "brevitas": Method("brevitas, learned scale", other=_brevitas, granularities=("channel", "tensor", "column")),
    "diffq": Method("DiffQ, bits fixed", other=_diffq, granularities=("tensor",)),
}
MAIN = tuple(METHODS)

# Ablations: RAND mode 2 and its parts
for _estimator in ("ste", "pqn"):
    for _p in (2, 4, 16):
        METHODS[f"rand_m2_{_estimator}_p{_p}"] = Method(
            f"RAND mode 2, {_estimator}, p = {_p}", _ours("rand", _estimator, mode=2, p=_p)
        )
    for _k in (1, 4, 8, 32):
        METHODS[f"rand_m2_{_estimator}_k{_k}"] = Method(
            f"RAND mode 2, {_estimator}, k = {_k}", _ours("rand", _estimator, mode=2, k=_k)
        )
    for _k in (1, 1.25, 2, 4, 8):
        METHODS[f"rand_m2_{_estimator}_mean{_k}"] = Method(
            f"RAND mode 2, {_estimator}, {_k} times the 8-mean", _ours("rand", _estimator, mode=2, c="mean", k=_k)
        )
    for _p in (2, 4, 16):
        METHODS[f"rand_m2_{_estimator}_mean1_p{_p}"] = Method(
            f"RAND mode 2, {_estimator}, the {_p}-mean", _ours("rand", _estimator, mode=2, c="mean", k=1, p=_p)
        )
for _step in (50, 150):
    METHODS[f"rand_m3_ste_from{_step}"] = Method(
        f"RAND mode 3, straight-through, float before step {_step}",
        _ours("rand", mode=3, init="clip", start_step=_step),
    )
for _p in (2, 4):
    METHODS[f"rand_m3_ste_p{_p}"] = Method(
        f"RAND mode 3, straight-through, p = {_p}", _ours("rand", mode=3, init="clip", p=_p)
    )
METHODS["rand_m2_pqn_normal"] = Method("RAND mode 2, normal noise", _ours("rand", "pqn", mode=2, noise="normal"))

# Where noise holds
for _name in ("pqn", "rand_m3_pqn"):
    _method = METHODS[_name]
    for _part in (0.5, 0.8):
        METHODS[f"{_name}_until{_part}"] = replace(
            _method,
            text=f"{_method.text}, straight-through after {_part} of the steps",
            estimators={_part: StraightThrough()},
        )
    for _suffix, _rest in (("half", "noise"), ("quantnoise", "float")):
        METHODS[f"{_name}_{_suffix}"] = replace(
            _method,
            text=f"{_method.text.removesuffix('noise')}a random half rounded, the rest {_rest}",
            estimators={0.0: RoundedHalf(_rest == "noise")},
        )

# Scales and codes that the data choose
for _name in ("lsc_clip", "rand_m3_ste", "rand_m3_pqn"):
    for _when in ("before", "after"):
        METHODS[f"{_name}_calibrated_{_when}"] = replace(
            METHODS[_name], text=f"{METHODS[_name].text}, calibrated {_when} it", calibrated=_when
        )

# Methods that may close the gap to float: distillation, more training, faster scales
_BESIDE = Distillation(labels=1.0, states=0.0)  # outputs alone, beside the labels
for _name in ("ste", "lsc_lsq+", "lsc_clip", "rand_m3_ste", "rand_m3_pqn"):
    _method = METHODS[_name]
    METHODS[f"{_name}_distilled"] = replace(_method, text=f"{_method.text}, distilled", distillation=_BESIDE)
METHODS["float_tuned"] = replace(METHODS["float"], text="`float`, trained twice", tuned=True)
for _name in ("ste", "clip", "lsc_clip", "rand_m3_ste"):
    _method = replace(METHODS[_name], tuned=True)
    METHODS[f"{_name}_tuned"] = replace(_method, text=f"{_method.text}, from `float`")
    METHODS[f"{_name}_taught"] = replace(
        _method, text=f"{_method.text}, distilled from `float`", distillation=Distillation()
    )
METHODS["lsc_clip_scales"] = replace(
    METHODS["lsc_clip"], text="learnable scale and clip, from clip search, scales learn 10 times slower", scale_rate=0.1
)
for _name, _factor in (("rand_m3_ste_scales", 30), ("rand_m3_ste_scales10", 10)):
    METHODS[_name] = replace(
        METHODS["rand_m3_ste"],
        text=f"RAND mode 3, straight-through, scales learn {_factor} times faster",
        scale_rate=float(_factor),
    )
METHODS["rand_m3_ste_both"] = replace(METHODS["rand_m3_ste_scales"], text="the same, distilled", distillation=_BESIDE)
for _name in ("ste", "clip", "lsc_clip", "rand_m3_ste"):
    _options = copy.deepcopy(METHODS[_name].options)
    _options["quantizer_conf"]["overrides"] = {EMBEDDING: {"bits": 8}}
    METHODS[f"{_name}_e8"] = Method(f"{METHODS[_name].text}, embedding in 8 bits", _options)

# Tricks that may make few bits hold, screened on prompts
_CALIBRATED, _TAUGHT = METHODS["calibrated"], METHODS["rand_m3_ste_taught"]
METHODS["calibrated_propagated"] = replace(
    _CALIBRATED,
    text=f"{_CALIBRATED.text}, layer after layer (QEP)",
    calibrator=functools.partial(_calibrate, propagate=True),
)
for _name, _text, _tuned in (("", "", False), ("_tuned", ", from `float`", True)):
    METHODS[f"rand_m3_ste_cotrained{_name}"] = replace(
        METHODS["rand_m3_ste"],
        text=f"RAND mode 3, straight-through, co-trained with float{_text}",
        tuned=_tuned,
        cotrained=Distillation(labels=1.0),
    )
for _before, _method in (("calibrated", _CALIBRATED), ("rand_m3_ste_taught", _TAUGHT)):
    for _name, _patterns in (("convs8", ("*conv1", "*conv2")), ("ends8", ("*conv1", "*conv2", EMBEDDING))):
        _options = copy.deepcopy(_method.options)
        _options["quantizer_conf"]["overrides"] = {pattern: {"bits": 8} for pattern in _patterns}
        METHODS[f"{_before}_{_name}"] = replace(
            _method, text=f"{_method.text}, {', '.join(_patterns)} in 8 bits", options=_options
        )
    METHODS[f"{_before}_ternary"] = replace(_method, text=f"{_method.text}, codes -Q ... Q", grid=Ternary)
for _name, _text, _more in (
    ("scales", "scales learn 30 times faster", {"scale_rate": 30.0}),
    ("twice", "twice the steps", {"length": 2.0}),
    ("four", "four times the steps", {"length": 4.0}),
    ("further", "and unlabelled audio", {"unlabelled": True}),
    ("further_twice", "and unlabelled audio, twice the steps", {"unlabelled": True, "length": 2.0}),
    ("calibrated", "from a calibrated start", {"calibrated": "before"}),
    (
        "propagated",
        "from a calibrated start (QEP)",
        {"calibrated": "before", "calibrator": METHODS["calibrated_propagated"].calibrator},
    ),
    ("drawn", "one model for all of 8, 4, 3, 2 bits", {"drawn": (8, 4, 3, 2)}),
    ("drawn3", "one model for all of 8, 4, 3 bits", {"drawn": (8, 4, 3)}),
):
    METHODS[f"rand_m3_ste_taught_{_name}"] = replace(_TAUGHT, text=f"{_TAUGHT.text}, {_text}", **_more)
METHODS["lsc_clip_taught_calibrated"] = replace(  # (clip search and absmax have no scales of their own to calibrate)
    METHODS["lsc_clip_taught"],
    text=f"{METHODS['lsc_clip_taught'].text}, from a calibrated start",
    calibrated="before",
)
