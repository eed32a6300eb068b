"""One quantized weight of a model: when it is computed, and how long a computed one is kept."""

import threading
from contextlib import nullcontext
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from espnet_rand.errors import QuantizationError
from espnet_rand.layers.clock import Clock, Reading, Readings, recomputing
from espnet_rand.layers.learned_scales import scale_suffix
from espnet_rand.quantizers import DrawnPrecision, WeightQuantizer


class _Kept(NamedTuple):
    stamp: Tuple
    value: Tensor


class QuantizedWeight:
    """A weight's quantizer, and the last quantized weight as long as it is good.

    Layers that share a parameter share one of these.

    Args:
        quantizer: how it is quantized
        clock: the model's
        index: number of the weight in the model
        layer: number of its layer
        rows, unrows: the layer's weight with its output channels first, and back
        fixed: whether its bits are its own, by `overrides`, and those of the others are not meant for it

    Attributes:
        eval_bits: of evaluation, if not the default (see `espnet_rand.layers.set_eval_bits`)
        scale_suffix: what the weight's name is followed by in that of its learned scale; empty: it has none
        followed: what a learned scale was set to that follows the weights; None: it was trained or loaded, or there is
            none
    """

    #: Whether it can be computed with in float.
    has_float = True

    def __init__(
        self,
        quantizer: WeightQuantizer,
        clock: Clock,
        index: int,
        layer: int,
        rows: Callable[[Tensor], Tensor],
        unrows: Callable[[Tensor], Tensor],
        fixed: bool = False,
    ):
        self.quantizer = quantizer
        self.clock = clock
        self.index = index
        self.layer = layer
        self.rows = rows
        self.unrows = unrows
        self.fixed = fixed
        self.eval_bits: Optional[int] = None
        self.scale_suffix = scale_suffix(quantizer)
        self.followed: Optional[Tensor] = None
        self._kept: Dict[bool, _Kept] = {}
        self._start: Optional[_Kept] = None
        self._readings = Readings()

    def __getstate__(self) -> Dict[str, Any]:
        new = {"eval_bits": self.reading().bits, "_kept": {}, "_start": None, "_readings": Readings()}
        return {**self.__dict__, **new}

    @property
    def bits(self) -> int:
        """In evaluation, and in a packed file."""
        return self._bits(self.reading())

    def _bits(self, reading: Reading) -> int:
        return reading.bits or self.quantizer.precision.highest

    def reading(self) -> Reading:
        """What the weight is to be read as; in a checkpoint's recomputation what it was read as in the forward."""
        if recomputing():
            known = self._readings.recomputed()
            if known is not None:
                return known.told(self, torch._C._current_graph_task_id())
        return Reading(self.clock.number, False, self.eval_bits).told(self)

    def waits(self, reading: Reading, training: bool) -> bool:
        """Whether `start_step` has not come yet: training computes in float."""
        return training and reading.number < self.quantizer.start_step

    @torch.compiler.disable
    def read(self, layer: Any, name: str) -> Optional[Tensor]:
        """What `layer` computes with in place of its parameter `name`; None: with the parameter.

        In evaluation the rounded weight. In training the estimator's, while a forward runs;
        outside of one the float weight itself, which is what optimizers, initializations and
        code that ties weights want to see.
        """
        reading = self.reading()
        if not torch.is_inference_mode_enabled():
            self._readings.note(reading)
        if reading.off:
            return None
        if not layer.training:
            return self._evaluation(layer, name, reading)
        if not self.clock.running:
            return None
        if self.waits(reading, training=True):
            return self._waiting(layer, name)
        return self._training(layer, name, reading)

    def _waiting(self, layer: Any, name: str) -> Optional[Tensor]:
        """Before `start_step`: the float weight. A learned scale gets a gradient of 0, as DDP wants one."""
        scale = layer.scale_parameter(name)
        return None if scale is None else layer.source(name) + 0 * scale.sum()

    def _training(self, layer: Any, name: str, reading: Reading) -> Tensor:
        graph = _needs_graph(layer.sources(name))
        stamp = (reading.number,)
        # (What a checkpoint recomputes inside backward may get a graph of its own: not for others.)
        kept = self._kept.get(graph)  # looked at once: another thread may be training as well
        if not recomputing() and kept is not None and kept.stamp == stamp:
            return kept.value
        self.follow(layer, name)
        self.followed = None
        # What a checkpoint sees saved must not depend on which of its blocks used the weight first.
        with saved_tensors_hooks(_same, _same) if graph else nullcontext():
            value = self._estimate(layer, name, reading.number)
        if not recomputing():
            self._kept = {g: kept for g, kept in self._kept.items() if kept.stamp == stamp}
            self._kept[graph] = _Kept(stamp, value)
            if graph:
                value.register_hook(self._passed)
        return value

    def _passed(self, grad: Tensor) -> None:
        """Backward has passed every use of the weight: nothing needs it any more."""
        self._kept.pop(True, None)

    def forget(self) -> None:
        """Keep no computed weight: the parameter may have changed in a way that cannot be seen (`.data`)."""
        self._kept, self._start = {}, None

    def _estimate(self, layer: Any, name: str, number: int) -> Tensor:
        """What training forward `number` computes with."""
        weight, precision = layer.source(name), self.quantizer.precision
        drawn = isinstance(precision, DrawnPrecision)
        value = self.quantizer(
            self.rows(weight),
            layer.scale_parameter(name),
            training=True,
            generator=self.clock.noise(weight.device, self.index, number),
            bits=self.clock.drawing(precision, self.layer, self.index, number) if drawn else precision.bits,
        )
        return self.unrows(value)

    def _evaluation(self, layer: Any, name: str, reading: Reading) -> Tensor:
        sources = layer.sources(name)
        if _traced(sources[0]):
            if reading.bits is not None and self.followed is not None:
                raise QuantizationError(
                    f"an export at {reading.bits} bits of learned scales that were never trained is not possible: they "
                    "follow the weights. Mend: export at the default bits"
                )
            return self._round(layer, name, layer.scale_parameter(name), reading)
        if _needs_graph(sources):
            self.follow(layer, name, reading.bits)  # an optimizer may go on from there
            return self._round(layer, name, self._scale(layer, name, reading.bits), reading)
        stamp = (*self._stamp(sources), reading.bits)
        kept = self._kept.get(False)  # looked at once: other threads may evaluate at other bits
        if kept is None or kept.stamp != stamp:
            value = self._round(layer, name, self._scale(layer, name, reading.bits, keep=True), reading)
            kept = _Kept(stamp, value)
            self._kept = {False: kept}
        return kept.value

    def _stamp(self, sources: Tuple[Tensor, ...]) -> Tuple:
        return (torch.is_inference_mode_enabled(), *map(_version, sources))

    def _round(self, layer: Any, name: str, scale: Optional[Tensor], reading: Reading) -> Tensor:
        rows = self.rows(layer.source(name))
        return self.unrows(self.quantizer(rows, scale, training=False, bits=self._bits(reading)))

    def _scale(self, layer: Any, name: str, bits: Optional[int], keep: bool = False) -> Optional[Tensor]:
        """The learned scale that evaluation at `bits` computes with. It changes no parameter: other threads read it.

        Args:
            keep: whether what the weights give may be as old as they seem (see `forget`)
        """
        scale = layer.scale_parameter(name)
        if not self.follows(scale):
            return scale
        stamp = (*self._stamp(layer.sources(name)[:1] + layer.sources(name)[2:]), bits)
        kept = self._start
        if not keep or kept is None or kept.stamp != stamp:
            kept = self._start = _Kept(stamp, self.initial(layer.source(name), bits))
        return kept.value + (scale - scale.detach()) if _needs_graph((scale,)) else kept.value

    def encode(self, layer: Any, name: str, bits: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """Codes, output channels first, and scales of evaluation (see WeightQuantizer.encode); `bits`: of others."""
        reading = self.reading()
        scale = self._scale(layer, name, bits or reading.bits)
        return self.quantizer.encode(self.rows(layer.source(name)), scale, bits or self._bits(reading))

    @torch.no_grad()
    def place(self, layer: Any, name: str, rows: Tensor, scales: Tensor) -> None:
        """Set the float weight, output channels first, and the learned scale to that of step sizes, (groups,)."""
        layer._parameters[name].copy_(self.unrows(rows))
        layer.scale_parameter(name).copy_(self.quantizer.parameter(rows, scales, self.bits))
        self.followed = None

    @torch.no_grad()
    def follow(self, layer: Any, name: str, bits: Optional[int] = None) -> None:
        """Set a learned scale that nobody trained or loaded to what the present weights give (at `bits`)."""
        scale = layer.scale_parameter(name)
        if scale is None or self.followed is None or not scale.numel() or scale.is_meta or _traced(scale):
            return  # (DeepSpeed's ZeRO 3 keeps parameters elsewhere)
        with _following:
            if not self.follows(scale):
                self.followed = None
                return
            followed = self.initial(layer.source(name), bits)
            if not torch.equal(scale, followed):
                scale.copy_(followed)
            self.followed = followed

    def follows(self, scale: Optional[Tensor]) -> bool:
        """Whether a scale is what it was last set to here: others set it as well, as averages of models do."""
        if scale is None or self.followed is None:
            return False
        with _following:
            return close(self.followed, scale)

    def initial(self, weight: Tensor, bits: Optional[int] = None) -> Tensor:
        """The learned scale that a weight in the layer's own layout starts with, (groups,), in the weight's dtype."""
        return self.quantizer.initial(self.rows(weight), bits).to(weight.dtype)


#: A scale is set, and noted as set, in one go: other threads look at both.
_following = threading.RLock()


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two scales are the same, but for rounding."""
    return a.shape == b.shape and torch.allclose(a.to(b), b, rtol=1e-6, atol=0)


def _traced(tensor: Tensor) -> bool:
    """Whether an export looks at a tensor without numbers."""
    return torch.compiler.is_compiling() and type(tensor) not in (Tensor, nn.Parameter)


def _needs_graph(sources: Tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(source.requires_grad for source in sources)


def _version(tensor: Tensor) -> Tuple:
    # tensors made in inference mode count no versions; nothing can change them in place outside it
    version = 0 if tensor.is_inference() else tensor._version
    storage = StorageWeakRef(tensor.untyped_storage())  # an address alone may be used again
    return storage, tensor.data_ptr(), version, tensor.dtype, tensor.device


def _same(tensor: Tensor) -> Tensor:
    return tensor
