"""One typed description of a quantization: from YAML, checked once, to the model, and back."""

import dataclasses
from typing import Any, Dict, List, Mapping, Tuple, Type, Union

from espnet_rand.options import Check, OptionError, Options, a_precision, boolean, integer, one_of, option
from espnet_rand.quantizers import (
    ESTIMATORS,
    GRANULARITIES,
    SCALES,
    DrawnPrecision,
    Precision,
    WeightQuantizer,
)

# option -> what it chooses from; each choice has options of its own, its fields
AXES: Dict[str, Dict[str, Type[Options]]] = {
    "quantizer": SCALES,
    "estimator": ESTIMATORS,
    "granularity": GRANULARITIES,
}
AXIS_DEFAULTS = {"quantizer": "rand", "estimator": "pqn", "granularity": "channel"}


@dataclasses.dataclass(frozen=True)
class _Schedule(Options):
    start_step: int = option(0, integer(0))


_patterns = Check(
    lambda v: isinstance(v, (list, tuple)) and all(isinstance(x, str) and x for x in v),
    "a list of wildcards on module names",
)
_overrides = Check(
    lambda v: isinstance(v, Mapping) and all(isinstance(k, str) and isinstance(x, Mapping) for k, x in v.items()),
    "a mapping from a wildcard on module names to options",
)
_evaluations = Check(
    lambda v: isinstance(v, (list, tuple)) and all(isinstance(x, str) or a_precision.holds(x) for x in v),
    "a list of numbers of bits from 2 to 8 and plan files",
)
_MODEL_OPTIONS = {
    "include": _patterns,
    "exclude": _patterns,
    "overrides": _overrides,
    "depthwise": boolean,
    "eval_bits": _evaluations,
}


class QuantizerConfig:
    """What is quantized, and how.

    Args:
        quantizer: the scale: rand, absmax, lsc or clip
        **conf: the other options, as in `quantizer_conf` of a YAML file

    Options of every layer (and so of `overrides`): `bits` (a list: one is drawn in each training
    forward, see DrawnPrecision), `estimator`, `granularity`, `start_step`, and those of the
    chosen scale, estimator and granularity. Of the model:
    `include`, `exclude` (lists of wildcards on module names), `overrides` (wildcard -> options
    of a layer; where several match, the later wins), `depthwise` (also quantize depthwise
    convolutions), `eval_bits` (numbers of bits and plan files that a training is validated at,
    besides the default).

    Raises:
        OptionError: unknown key, wrong type or value; the message names key, value, and what
            is allowed

    Example:
        >>> QuantizerConfig("rand", bits=4, mode=2, overrides={"*.embed.*": {"bits": 8}})
    """

    def __init__(self, quantizer: str = "rand", /, **conf: Any):
        model = {name: conf.pop(name) for name in _MODEL_OPTIONS if name in conf}
        for name, value in model.items():
            _MODEL_OPTIONS[name](name, value)
        self.include: Tuple[str, ...] = tuple(model.get("include", ("*",)))
        self.exclude: Tuple[str, ...] = tuple(model.get("exclude", ()))
        self.depthwise: bool = model.get("depthwise", False)
        self.eval_bits: Tuple[Union[int, str], ...] = tuple(model.get("eval_bits", ()))
        self.overrides: Dict[str, Dict[str, Any]] = {
            pattern: dict(options) for pattern, options in model.get("overrides", {}).items()
        }
        self._layer = _resolve({}, {"quantizer": quantizer, **conf})
        for pattern in self.overrides:
            self._override(self._layer, pattern)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "QuantizerConfig":
        """From `{"quantizer": name, "quantizer_conf": {...}}`, which is what YAML files hold."""
        for key in options:
            if key not in ("quantizer", "quantizer_conf"):
                raise OptionError(f"{key}: {options[key]!r} is given, but only quantizer and quantizer_conf are known")
        conf = options.get("quantizer_conf")
        conf = {} if conf is None else conf
        if not isinstance(conf, Mapping):
            raise OptionError(f"quantizer_conf: {conf!r} is not allowed, it must be a mapping of options")
        if "quantizer" in conf:
            raise OptionError("quantizer_conf: quantizer stands beside quantizer_conf, not in it")
        return cls(options.get("quantizer", AXIS_DEFAULTS["quantizer"]), **{str(k): v for k, v in conf.items()})

    def to_dict(self) -> Dict[str, Any]:
        """Every option with its value, such that `from_dict` gives an equal configuration."""
        conf = {name: list(value) if isinstance(value, tuple) else value for name, value in self._layer.items()}
        quantizer = conf.pop("quantizer")
        conf.update(
            include=list(self.include),
            exclude=list(self.exclude),
            depthwise=self.depthwise,
            eval_bits=list(self.eval_bits),
            overrides={pattern: dict(options) for pattern, options in self.overrides.items()},
        )
        return {"quantizer": quantizer, "quantizer_conf": conf}

    def weight_quantizer(self, patterns: List[str]) -> WeightQuantizer:
        """The quantizer of a layer that the keys `patterns` of `overrides` match."""
        layer = self._layer
        for pattern in patterns:
            layer = self._override(layer, pattern)
        made = {axis: _make(choices[layer[axis]], layer) for axis, choices in AXES.items()}
        return WeightQuantizer(
            scale=made["quantizer"],
            estimator=made["estimator"],
            granularity=made["granularity"],
            precision=_make(_precision(layer["bits"]), layer),
            start_step=layer["start_step"],
        )

    def _override(self, layer: Mapping[str, Any], pattern: str) -> Dict[str, Any]:
        try:
            return _resolve(layer, self.overrides[pattern])
        except OptionError as e:
            raise OptionError(f"overrides: {pattern}: {e}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantizerConfig) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"QuantizerConfig({self.to_dict()})"


def _names(options: Type[Options]) -> List[str]:
    return [field.name for field in dataclasses.fields(options)]


def _make(options: Type[Options], values: Mapping[str, Any]) -> Any:
    return options(**{name: values[name] for name in _names(options)})


def _resolve(base: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    """All options of a layer: those given, over those of `base`, over the defaults.

    An option of `base` that belongs to a choice which `given` replaces is dropped.
    """
    layer: Dict[str, Any] = {}
    precision = _precision(given.get("bits", base.get("bits")))
    parts: List[Tuple[Type[Options], Mapping[str, Any]]] = [
        (precision, base if precision is _precision(base.get("bits")) else {}),
        (_Schedule, base),
    ]
    for axis, choices in AXES.items():
        layer[axis] = given.get(axis, base.get(axis, AXIS_DEFAULTS[axis]))
        one_of(*choices)(axis, layer[axis])
        parts.append((choices[layer[axis]], base if layer[axis] == base.get(axis) else {}))
    known = [name for part, _ in parts for name in _names(part)]
    for name in given:
        if name not in known and name not in AXES:
            chosen = ", ".join(f"{axis} {layer[axis]}" for axis in AXES)
            chosen += ", one number of bits" if precision is Precision else ""
            others = ["quantizer"] if base else _MODEL_OPTIONS  # of `overrides`, and of the model
            allowed = ", ".join([*list(AXES)[1:], *known, *others])
            raise OptionError(
                f"{name}: {given[name]!r} is given, but {chosen} have no such option; there are {allowed}"
            )
    for part, inherited in parts:
        defaults = {field.name: field.default for field in dataclasses.fields(part)}
        values = {name: given.get(name, inherited.get(name, default)) for name, default in defaults.items()}
        layer.update(dataclasses.asdict(part(**values)))
    if precision is DrawnPrecision and _make(SCALES[layer["quantizer"]], layer).tied:
        raise OptionError(
            f"bits: {[*layer['bits']]} is not allowed, it must be one number for quantizer {layer['quantizer']}, "
            "whose learned step sizes belong to it; rand learns scales for all (mode: 3)"
        )
    return layer


def _precision(bits: Any) -> Type[Precision]:
    """A list of bits means that one is drawn."""
    return DrawnPrecision if isinstance(bits, (list, tuple)) else Precision


Configuration = Union[QuantizerConfig, Mapping[str, Any]]
