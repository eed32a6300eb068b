"""The configuration of a quantization: read from YAML, checked once, and written back."""

import dataclasses
import functools
from typing import Any, ClassVar, Dict, Iterable, List, Mapping, Optional, Tuple, Type, Union

from espnet_rand.options import BITS_RANGE, Check, OptionError, Options, a_precision, boolean, integer, one_of
from espnet_rand.quantizers import (
    ESTIMATORS,
    GRANULARITIES,
    GRIDS,
    ROTATIONS,
    SCALE_DTYPES,
    SCALES,
    DrawnPrecision,
    LearnedScale,
    Noise,
    Precision,
    Rand,
    Scale,
    WeightQuantizer,
    grid_name,
    rotation_name,
)

# option -> the choices that it has; the fields of a choice are options, too
CHOICES: Dict[str, Mapping[str, Type[Options]]] = {
    "quantizer": SCALES,
    "estimator": ESTIMATORS,
    "granularity": GRANULARITIES,
}
# option -> the field of WeightQuantizer that has the choice
_FIELDS = {"quantizer": "scale", "estimator": "estimator", "granularity": "granularity"}
# options of every layer whose choices have no options -> the choices
_NAMED: Dict[str, Mapping[str, Any]] = {
    "grid": GRIDS,
    "rotation": ROTATIONS,
    "scale_dtype": {name: name for name in SCALE_DTYPES},
}
# options of every layer, beside those above
_OF_LAYERS = ("start_step", *_NAMED)


_patterns = Check(
    lambda v: isinstance(v, (list, tuple)) and all(isinstance(x, str) and x for x in v),
    "a list of wildcards on module names",
)
_overrides = Check(
    lambda v: isinstance(v, Mapping) and all(isinstance(k, str) and isinstance(x, Mapping) for k, x in v.items()),
    "a mapping from a wildcard on module names to options",
)
_validations = Check(
    lambda v: isinstance(v, (list, tuple)) and all(isinstance(x, str) or a_precision.holds(x) for x in v),
    f"a list of numbers of bits {BITS_RANGE} and plan files",
)
_MODEL_OPTIONS = {
    "include": _patterns,
    "exclude": _patterns,
    "overrides": _overrides,
    "depthwise": boolean,
    "weight_norm": boolean,
    "eval_bits": _validations,
    "histograms": one_of("none", "codes", "weights"),
}
# those that say what a training reports, and change nothing in it
_REPORTED = ("eval_bits", "histograms")


class QuantizerConfig:
    """The checked options that say what is quantized, and how.

    Every layer has the options `bits` (a list: one is drawn in each training forward, see
    DrawnPrecision), `estimator`, `granularity`, `grid`, `rotation`, `scale_dtype`, `start_step`, and those of the
    chosen scale, estimator and granularity. `overrides` can give them for some layers. The model has the options
    of the attributes below; `validation_bits` is called `eval_bits` in YAML.

    Args:
        quantizer: the scale: rand, absmax, lsc or clip
        **conf: the other options, as in `quantizer_conf` of a YAML file

    Attributes:
        include, exclude: wildcards on module names
        overrides: wildcard -> options of a layer; where several match, the later wins
        depthwise: whether to quantize depthwise convolutions, too
        weight_norm: whether to quantize weights that weight norm computes, too
        validation_bits: numbers of bits and plan files at which a training is validated, besides the default
        histograms: of what a training draws one for each weight in TensorBoard and wandb: none, codes or weights

    Raises:
        OptionError: unknown key, wrong type or value; the message names key, value, and what
            is allowed

    Examples:
        >>> QuantizerConfig("rand", bits=4, mode=2, overrides={"*.embed.*": {"bits": 8}})
    """

    _default: ClassVar[WeightQuantizer] = WeightQuantizer()
    #: what a new choice starts from, where that is not its own defaults
    _starts: ClassVar[Mapping[Type[Scale], Scale]] = {}

    def __init__(self, quantizer: str = "rand", /, **conf: Any):
        model = {name: conf.pop(name) for name in _MODEL_OPTIONS if name in conf}
        for name, value in model.items():
            _MODEL_OPTIONS[name](name, value)
        self.include: Tuple[str, ...] = tuple(model.get("include", ("*",)))
        self.exclude: Tuple[str, ...] = tuple(model.get("exclude", ()))
        self.depthwise: bool = model.get("depthwise", False)
        self.weight_norm: bool = model.get("weight_norm", False)
        self.validation_bits: Tuple[Union[int, str], ...] = tuple(model.get("eval_bits", ()))
        self.histograms: str = model.get("histograms", "none")
        self.overrides: Dict[str, Dict[str, Any]] = {
            pattern: dict(options) for pattern, options in model.get("overrides", {}).items()
        }
        self._layer = _changed(self._default, {"quantizer": quantizer, **conf}, _MODEL_OPTIONS, self._starts)
        for pattern in self.overrides:
            self._override(self._layer, pattern)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "QuantizerConfig":
        """Make one from `{"quantizer": name, "quantizer_conf": {...}}`, which is what YAML files hold."""
        for key in options:
            if key not in ("quantizer", "quantizer_conf"):
                raise OptionError(f"{key}: {options[key]!r} is given, but only quantizer and quantizer_conf are known")
        conf = options.get("quantizer_conf")
        conf = {} if conf is None else conf
        if not isinstance(conf, Mapping):
            raise OptionError(f"quantizer_conf: {conf!r} is not allowed, it must be a mapping of options")
        if "quantizer" in conf:
            raise OptionError("quantizer_conf: quantizer stands beside quantizer_conf, not in it")
        return cls(options.get("quantizer", "rand"), **{str(k): v for k, v in conf.items()})

    def to_dict(self) -> Dict[str, Any]:
        """A mapping of every option to its value, from which `from_dict` makes an equal configuration.

        An override that chooses another scale names the options whose defaults have changed.
        """
        conf = _options(self._layer)
        quantizer = conf.pop("quantizer")
        conf.update(
            include=list(self.include),
            exclude=list(self.exclude),
            depthwise=self.depthwise,
            weight_norm=self.weight_norm,
            eval_bits=list(self.validation_bits),
            histograms=self.histograms,
            overrides={pattern: self._spelled(options) for pattern, options in self.overrides.items()},
        )
        return {"quantizer": quantizer, "quantizer_conf": conf}

    def _spelled(self, override: Mapping[str, Any]) -> Dict[str, Any]:
        """An override, with the options whose defaults have changed where it chooses another scale."""
        kind = SCALES[override["quantizer"]] if "quantizer" in override else type(self._layer.scale)
        if kind is type(self._layer.scale) or kind not in _FORMER_SCALES:
            return dict(override)
        start, former = self._starts.get(kind, kind()), _FORMER_SCALES[kind]
        return {**{name: getattr(start, name) for name in _differing(kind(), former)}, **override}

    def weight_quantizer(self, patterns: List[str]) -> WeightQuantizer:
        """The quantizer of a layer that the keys `patterns` of `overrides` match."""
        return functools.reduce(self._override, patterns, self._layer)

    def _override(self, layer: WeightQuantizer, pattern: str) -> WeightQuantizer:
        try:
            return _changed(layer, self.overrides[pattern], ["quantizer"], self._starts)
        except OptionError as e:
            raise OptionError(f"overrides: {pattern}: {e}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantizerConfig) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"QuantizerConfig({self.to_dict()})"

    def differing(self, other: "QuantizerConfig") -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """The options by which another configuration trains or rounds otherwise: (here, there).

        Those that change nothing, `eval_bits` and `histograms` are left out; of the other's, the defaults of a choice
        that is not made here, too.
        """
        ours, theirs = self._effective(), other._effective()
        chosen = {option: theirs[option] for option in (*CHOICES, "bits")}
        defaults = _options(_changed(WeightQuantizer(), chosen, (), {}))
        here = {name: value for name, value in ours.items() if name not in theirs or theirs[name] != value}
        there = {name: value for name, value in theirs.items() if value != ours.get(name, defaults.get(name))}
        return here, there

    def _effective(self) -> Dict[str, Any]:
        """The options but `eval_bits` and `histograms`, without those that change nothing."""
        options = self.to_dict()
        flat = {"quantizer": options["quantizer"], **options["quantizer_conf"]}
        flat["overrides"] = {
            pattern: _without(override, self._override(self._layer, pattern).scale.idle)
            for pattern, override in flat["overrides"].items()
        }
        return _without(flat, (*_REPORTED, *self._layer.scale.idle))


_FORMER_SCALES: Mapping[Type[Scale], Scale] = {
    Rand: Rand(mode=2, init="norm"),
    LearnedScale: LearnedScale(init="lsq+"),
}


class FormerConfig(QuantizerConfig):
    """The configuration of a training by its config.yaml: options that are not in it have the defaults of version 0.1.

    Trainings write every option. Those of version 0.1 wrote `overrides` as they were given.
    """

    _default = WeightQuantizer(_FORMER_SCALES[Rand], Noise())
    _starts = _FORMER_SCALES


def merged(preset: Mapping[str, Any], quantizer: Optional[str], given: Mapping[str, Any]) -> Dict[str, Any]:
    """Lay a quantizer, if there is one, and options over those of a preset.

    A new choice drops the options of the preset's. Both the preset and what is returned are mappings for `from_dict`.
    """
    conf = preset.get("quantizer_conf") or {}
    sides = {**conf, "quantizer": preset.get("quantizer")}, {**given, "quantizer": quantizer}
    kinds: Dict[str, Tuple[Any, ...]] = {
        option: tuple(choices.get(str(side.get(option))) for side in sides) for option, choices in CHOICES.items()
    }
    if "bits" in given:
        kinds["bits"] = tuple(_precision(side.get("bits")) for side in sides)
    dropped = {name for old, new in kinds.values() if old and new and old is not new for name in _names(old)}
    chosen = quantizer or preset.get("quantizer")
    return {"quantizer": chosen, "quantizer_conf": {**_without(conf, dropped), **given}}


def _without(options: Mapping[str, Any], names: Iterable[str]) -> Dict[str, Any]:
    """Options but those of some names."""
    return {name: value for name, value in options.items() if name not in names}


def _differing(one: Options, other: Options) -> List[str]:
    """The names of the options that are not the same in two of one kind."""
    return [name for name in _names(type(one)) if getattr(one, name) != getattr(other, name)]


def _choice(layer: WeightQuantizer, option: str) -> str:
    """The name of what a layer has chosen by an option."""
    return next(name for name, kind in CHOICES[option].items() if kind is type(getattr(layer, _FIELDS[option])))


def _options(layer: WeightQuantizer) -> Dict[str, Any]:
    """A mapping of every option of a layer to its value, as YAML holds it."""
    options: Dict[str, Any] = {option: _choice(layer, option) for option in CHOICES}
    options.update(dataclasses.asdict(layer.precision), start_step=layer.start_step)
    options.update(grid=grid_name(layer.grid), rotation=rotation_name(layer.rotation), scale_dtype=layer.scale_dtype)
    for field in _FIELDS.values():
        options.update(dataclasses.asdict(getattr(layer, field)))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _changed(
    layer: WeightQuantizer,
    given: Mapping[str, Any],
    others: Iterable[str],
    starts: Mapping[Type[Scale], Scale],
) -> WeightQuantizer:
    """A layer with the options `given` in place of its own. A new choice has its own defaults.

    Args:
        others: options that may stand beside them, for messages
        starts: what a new scale starts from, in place of its own defaults

    Raises:
        OptionError: there is no such option, or a value is not allowed
    """
    chosen = {option: given.get(option, _choice(layer, option)) for option in CHOICES}
    for option, choices in CHOICES.items():
        one_of(*choices)(option, chosen[option])
    kinds: Dict[str, Type[Options]] = {"precision": _precision(given.get("bits", layer.precision.bits))}
    kinds.update({_FIELDS[option]: choices[chosen[option]] for option, choices in CHOICES.items()})
    _check_names(given, chosen, kinds, others)
    parts: Dict[str, Any] = {"start_step": given.get("start_step", layer.start_step)}
    integer(0)("start_step", parts["start_step"])
    for name, choices in _NAMED.items():
        if name in given:
            one_of(*choices)(name, given[name])
            parts[name] = choices[given[name]]
    for field, kind in kinds.items():
        now: Any = getattr(layer, field)
        now = now if type(now) is kind else starts.get(kind)  # type: ignore[arg-type]
        own = {name: given[name] for name in _names(kind) if name in given}
        parts[field] = kind(**own) if now is None else dataclasses.replace(now, **own)
    if isinstance(parts["precision"], DrawnPrecision) and parts["scale"].tied:
        raise OptionError(
            f"bits: {[*parts['precision'].bits]} is not allowed, it must be one number for quantizer "
            f"{chosen['quantizer']}, whose learned step sizes belong to it; rand learns scales for all (mode: 3)"
        )
    return dataclasses.replace(layer, **parts)


def _check_names(
    given: Mapping[str, Any], chosen: Mapping[str, str], kinds: Mapping[str, Type[Options]], others: Iterable[str]
) -> None:
    """Raises OptionError: one of the options `given` is neither of the choices `kinds` nor of every layer."""
    precision, *others_chosen = kinds.values()
    known = [*_names(precision), *_OF_LAYERS, *(name for kind in others_chosen for name in _names(kind))]
    for name, value in given.items():
        if name not in known and name not in CHOICES:
            made_of = ", ".join(f"{option} {choice}" for option, choice in chosen.items())
            made_of += ", one number of bits" if precision is Precision else ""
            allowed = ", ".join([*list(CHOICES)[1:], *known, *others])
            raise OptionError(f"{name}: {value!r} is given, but {made_of} have no such option; there are {allowed}")


def _names(options: Type[Options]) -> List[str]:
    """The names of a choice's options."""
    return [field.name for field in dataclasses.fields(options)]


def _precision(bits: Any) -> Type[Precision]:
    """The class of precision for `bits`: a list means that one number is drawn."""
    return DrawnPrecision if isinstance(bits, (list, tuple)) else Precision


Configuration = Union[QuantizerConfig, Mapping[str, Any]]
