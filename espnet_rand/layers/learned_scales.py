"""Learned scales in checkpoints. Their names say what they are: `weight__rand3p8_channel_w4_quantizer_scale`.

A name survives averages, the gathering of partitioned parameters, and files of parts. A scale that was learned for
another quantizer, granularity or number of bits is of no use to a model, whose scales then start from its weights.
Checkpoints of version 0.1 have `weight_quantizer_scale`, which does not say what it is.
"""

import re
from typing import Callable, Dict, List, Mapping, MutableMapping, NamedTuple, Optional, Tuple

from torch import Tensor

from espnet_rand.options import BITS, OptionError, plain
from espnet_rand.quantizers import Grid, Rotation, WeightQuantizer, grid_name, rotation_name

SCALE_SUFFIX = "_quantizer_scale"
_KEY = re.compile(
    rf"(?P<weight>.+?)(__(?P<kind>[A-Za-z0-9]+_[A-Za-z0-9]+_w[{BITS[0]}-{BITS[-1]}]+[A-Za-z0-9]*))?{SCALE_SUFFIX}"
)
_SHOWN = 3

#: Gives the kind of a weight's learned scale by the weight's name; empty: it has none.
Kinds = Callable[[str], str]


class ScaleParameter(NamedTuple):
    """The learned scale of a weight of a model: its kind, how many numbers it has, and the weight's shape."""

    kind: str
    groups: int
    shape: Tuple[int, ...]


def scale_kind(quantizer: WeightQuantizer) -> str:
    """The kind of the learned scales of a quantizer, in one word; empty where its scale is not learned."""
    return rounding_kind(quantizer) if quantizer.scale.learned else ""


def rounding_kind(quantizer: WeightQuantizer) -> str:
    """One word for all that decides how a quantizer rounds in evaluation, beside the weights and learned scales.

    Raises:
        OptionError: a scale or granularity of one's own has a `meaning` or `name` of other characters
    """
    words = quantizer.scale.meaning, quantizer.granularity.name
    for word in words:
        if not re.fullmatch("[A-Za-z0-9]+", word):
            raise OptionError(
                f"{word!r} is not allowed as the meaning or name of {quantizer}: letters and digits alone"
            )
    bits = "".join(map(str, sorted(quantizer.precision.all)))
    others = "" if quantizer.grid is Grid else plain(grid_name(quantizer.grid))
    others += "" if quantizer.scale_dtype == "float32" else quantizer.scale_dtype
    others += "" if quantizer.rotation == Rotation() else rotation_name(quantizer.rotation)
    return "_".join([*words, f"w{bits}{others}"])


def scale_suffix(quantizer: WeightQuantizer) -> str:
    """The end of the name of a learned scale, behind the weight's name; empty where the scale is not learned."""
    kind = scale_kind(quantizer)
    return kind and scale_key("", kind)


def scale_key(weight: str, kind: str) -> str:
    """The name of a weight's learned scale, which says its kind."""
    return f"{weight}__{kind}{SCALE_SUFFIX}"


def split_scales(state: Mapping[str, Tensor]) -> Dict[str, Tuple[str, str]]:
    """The learned scales of a state_dict: key -> the weight's name, and the kind (empty: the key does not say it)."""
    found = {key: _KEY.fullmatch(key) for key in state if key.endswith(SCALE_SUFFIX)}
    return {key: (match["weight"], match["kind"] or "") for key, match in found.items() if match}


def settle(
    state: MutableMapping[str, Tensor], own: Mapping[str, ScaleParameter], believed: Optional[Kinds] = None
) -> "Settled":
    """Take out of a state_dict, in place, the learned scales that are not of the same kind as the model's.

    Args:
        state: a state_dict, by the model's names
        own: the model's learned scales, by the weights' names
        believed: kinds of the scales that do not say theirs; None: they are taken for the model's
    """
    left: Dict[Tuple[str, str], List[str]] = {}
    assumed: List[str] = []
    taken = set()
    for key, (weight, kind) in split_scales(state).items():
        scale, wanted = state.pop(key), own.get(weight)
        if not kind and believed is None and wanted is not None:
            assumed.append(weight)
        kind = kind or (believed(weight) if believed else wanted.kind if wanted else "") or "not known"
        if wanted is not None and kind == wanted.kind and _fits(scale, state.get(weight), wanted):
            state[scale_key(weight, kind)] = scale
            taken.add(weight)
        else:
            left.setdefault((kind, wanted.kind if wanted else ""), []).append(weight)
    came = taken.union(*left.values())
    missing = [weight for weight in own if weight in state and weight not in came]
    return Settled(left, assumed, missing, len(taken))


def _fits(scale: Tensor, weight: Optional[Tensor], wanted: ScaleParameter) -> bool:
    """Whether a scale has the model's groups, and its weight the model's shape. (ZeRO 3 keeps both elsewhere.)"""
    if not scale.numel() or not wanted.groups:
        return True
    return scale.numel() == wanted.groups and (weight is None or tuple(weight.shape) == wanted.shape)


class Settled(NamedTuple):
    """The result of `settle`: what became of a checkpoint's learned scales.

    Attributes:
        left: scales that were left out: their kind and the kind of the model's (empty: it has none) -> weights
        assumed: weights whose scales were taken although they do not say their kind
        missing: weights that came without the scale that the model has
        taken: how many scales were taken
    """

    left: Dict[Tuple[str, str], List[str]]
    assumed: List[str]
    missing: List[str]
    taken: int

    @property
    def others(self) -> str:
        """An error's words for what was left out; empty where nothing was."""
        return others(
            {w: theirs for (theirs, _), ws in self.left.items() for w in ws},
            {w: ours for (_, ours), ws in self.left.items() for w in ws},
        )

    def __str__(self) -> str:
        """A warning's words; empty where all scales were taken, and say their kind."""
        said = []
        for (theirs, ours), weights in self.left.items():
            what = f"learned scales of {len(weights)} weights ({_few(weights)}) are {theirs}"
            if ours:
                said.append(f"{what}, the model's {ours}: these start from the weights")
            else:
                said.append(f"{what}, which the model lacks")
        if self.missing and self.taken:
            said.append(
                f"{len(self.missing)} weights come without learned scales ({_few(self.missing)}): these start from the "
                "weights"
            )
        if self.assumed:
            said.append(
                f"learned scales of {len(self.assumed)} weights ({_few(self.assumed)}) do not say what they are, as of "
                "version 0.1, and no config.yaml beside the checkpoint does: they are taken for the model's"
            )
        return "; ".join(said)


def others(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Say how learned scales differ between a checkpoint and a model, by their kinds; empty where they don't."""
    different = sorted(weight for weight in {*theirs, *ours} if theirs.get(weight, "") != ours.get(weight, ""))
    if not different:
        return ""
    one = different[0]
    kinds = f"{theirs.get(one) or 'none'} there, {ours.get(one) or 'none'} here"
    return f"{len(different)} learned scales are others ({one}: {kinds})"


def _few(names: List[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
