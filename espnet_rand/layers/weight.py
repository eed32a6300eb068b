"""A quantized weight of a model: when it is computed, and how long the computed one is kept."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from espnet_rand.errors import QuantizationError
from espnet_rand.layers.clock import Clock
from espnet_rand.layers.computation import Reading, Readings, recomputing
from espnet_rand.layers.learned_scales import scale_suffix
from espnet_rand.layers.slot import Slot
from espnet_rand.quantizers import DrawnPrecision, Steps, WeightQuantizer


class _Kept(NamedTuple):
    """A tensor that is kept, with a stamp of what it was computed from."""

    stamp: Tuple
    value: Tensor


@dataclass
class LayerWeight:
    """A weight in one of the layers that share it: the layer, and the parameter's name there."""

    layer: Any
    name: str

    @property
    def parameter(self) -> nn.Parameter:
        """The float weight."""
        return self.layer._parameters[self.name]

    @property
    def scale(self) -> Optional[nn.Parameter]:
        """The learned scale, (groups,); None: there is none."""
        return self.layer.scale_parameter(self.name)

    @property
    def source(self) -> Tensor:
        """The tensor that is quantized: the float weight, perhaps with an adapter's sum."""
        return self.layer.source(self.name)

    @property
    def sources(self) -> Tuple[Tensor, ...]:
        """The tensors that the quantized weight depends on, the parameter first."""
        return self.layer.sources(self.name)


class QuantizedWeight(Slot):
    """Quantizes a weight for the layers that share it, and keeps the quantized weight as long as it is good.

    A learned scale that nobody trained or loaded tracks the weight: it is set to what the weight gives.

    Args:
        quantizer: quantizes the weight
        clock: the clock of the model
        index: number of the weight in the model
        layer: number of its layer
        channels_first, own_layout: bring a weight's output channels to the front, and back
        fixed: whether `overrides` gave the weight bits of its own, which a number of bits for all leaves alone

    Attributes:
        evaluation_bits: bits of evaluation; None: the default (see `espnet_rand.layers.set_eval_bits`)
        tracked: the value that a learned scale was last set to while it tracks the weight; None: it was trained or
            loaded, or there is none
    """

    def __init__(
        self,
        quantizer: WeightQuantizer,
        clock: Clock,
        index: int,
        layer: int,
        channels_first: Callable[[Tensor], Tensor],
        own_layout: Callable[[Tensor], Tensor],
        fixed: bool = False,
    ):
        self.quantizer = quantizer
        self.clock = clock
        self.index = index
        self.layer = layer
        self.channels_first = channels_first
        self.own_layout = own_layout
        self.fixed = fixed
        self.evaluation_bits: Optional[int] = None
        self.scale_suffix = scale_suffix(quantizer)
        self.tracked: Optional[Tensor] = None
        self._kept: Dict[bool, _Kept] = {}
        self._start: Optional[_Kept] = None
        self._readings = Readings()

    def __getstate__(self) -> Dict[str, Any]:
        new = {"evaluation_bits": self.reading().bits, "_kept": {}, "_start": None, "_readings": Readings()}
        return {**self.__dict__, **new}

    def __str__(self) -> str:
        return str(self.quantizer)

    @property
    def bits(self) -> int:
        """The bits in evaluation, and in a packed file."""
        return self._bits(self.reading())

    def _bits(self, reading: Reading) -> int:
        return reading.bits or self.quantizer.precision.highest

    def reading(self) -> Reading:
        """The way in which to read the weight now; a checkpoint's recomputation reads it as the forward did."""
        if recomputing():
            known = self._readings.recomputed()
            if known is not None:
                return known.told(self, torch._C._current_graph_task_id())
        return Reading(self.clock.number, False, self.evaluation_bits).told(self)

    def waits(self, reading: Reading, training: bool) -> bool:
        """Whether training still computes in float, as `start_step` has not come yet."""
        return training and reading.number < self.quantizer.start_step

    @torch.compiler.disable
    def read(self, layer: Any, name: str) -> Optional[Tensor]:
        """The tensor that `layer` computes with in place of its parameter `name`; None: the parameter itself.

        In evaluation it is the rounded weight. In training it is the fake-quantized one while a
        forward runs, and else the float weight itself, which optimizers, initializations and code
        that ties weights want to see.
        """
        reading = self.reading()
        if not torch.is_inference_mode_enabled():
            self._readings.note(reading)
        if reading.off:
            return None
        at = LayerWeight(layer, name)
        if not layer.training:
            return self._evaluation(at, reading)
        if not self.clock.running:
            return None
        return self._waiting(at) if self.waits(reading, training=True) else self._training(at, reading)

    def switch(self, layer: Any, name: str, training: bool) -> None:
        """Drop what is kept: the parameter may have changed in a way that cannot be seen (`.data`)."""
        self._kept, self._start = {}, None
        if layer.training and not training:
            self.track(LayerWeight(layer, name))  # an export takes the parameter as it stands

    def save(self, layer: Any, name: str) -> None:
        """Set a learned scale that tracks the weight, so that it is saved as the weight gives it."""
        self.track(LayerWeight(layer, name))

    def _waiting(self, at: LayerWeight) -> Optional[Tensor]:
        """The float weight, before `start_step`. A learned scale gets a gradient of 0, as DDP wants one."""
        scale = at.scale
        return None if scale is None else at.source + 0 * scale.sum()

    def _training(self, at: LayerWeight, reading: Reading) -> Tensor:
        """The fake-quantized weight of a training forward, computed once in it."""
        graph = _needs_graph(at.sources)
        stamp = (reading.number,)
        # (What a checkpoint recomputes inside backward may get a graph of its own: not for others.)
        kept = self._kept.get(graph)  # looked at once: another thread may be training as well
        if not recomputing() and kept is not None and kept.stamp == stamp:
            return kept.value
        self.track(at)
        self.tracked = None
        # The tensors that a checkpoint sees saved must not depend on which of its blocks used the weight first.
        with saved_tensors_hooks(_same, _same) if graph else nullcontext():
            value = self._estimate(at, reading.number)
        if not recomputing():
            self._kept = {g: kept for g, kept in self._kept.items() if kept.stamp == stamp}
            self._kept[graph] = _Kept(stamp, value)
            if graph:
                value.register_hook(self._passed)
        return value

    def _passed(self, grad: Tensor) -> None:
        """Drop the kept weight: backward has passed every use of it, and nothing needs it any more."""
        self._kept.pop(True, None)

    def _estimate(self, at: LayerWeight, number: int) -> Tensor:
        """Fake-quantize the weight for training forward `number`."""
        weight, precision = at.source, self.quantizer.precision
        drawn = isinstance(precision, DrawnPrecision)
        value = self.quantizer(
            self.channels_first(weight),
            at.scale,
            training=True,
            generator=self.clock.noise(weight.device, self.index, number),
            bits=self.clock.draw_bits(precision, self.layer, self.index, number) if drawn else precision.bits,
        )
        return self.own_layout(value)

    def _evaluation(self, at: LayerWeight, reading: Reading) -> Tensor:
        """The rounded weight, computed once until something changes; anew where a graph or an export needs it."""
        sources = at.sources
        if _traced(sources[0]):
            if reading.bits is not None and self.tracked is not None:
                raise QuantizationError(
                    f"an export at {reading.bits} bits of learned scales that were never trained is not possible: they "
                    "track the weights. Fix: export at the default bits"
                )
            return self._round(at, at.scale, reading)
        if _needs_graph(sources):
            self.track(at, reading.bits)  # an optimizer may go on from there
            return self._round(at, self._scale(at, reading.bits), reading)
        stamp = (*self._stamp(sources), reading.bits)
        kept = self._kept.get(False)  # looked at once: other threads may evaluate at other bits
        if kept is None or kept.stamp != stamp:
            value = self._round(at, self._scale(at, reading.bits, keep=True), reading)
            kept = _Kept(stamp, value)
            self._kept = {False: kept}
        return kept.value

    def _stamp(self, sources: Tuple[Tensor, ...]) -> Tuple:
        return (torch.is_inference_mode_enabled(), *map(_version, sources))

    def _round(self, at: LayerWeight, scale: Optional[Tensor], reading: Reading) -> Tensor:
        weight = self.channels_first(at.source)
        return self.own_layout(self.quantizer(weight, scale, training=False, bits=self._bits(reading)))

    def _scale(self, at: LayerWeight, bits: Optional[int], keep: bool = False) -> Optional[Tensor]:
        """The learned scale that evaluation at `bits` computes with. It changes no parameter: other threads read it.

        Args:
            keep: whether a kept scale will do, if the weight seems not to have changed since (see `switch`)
        """
        scale = at.scale
        if not self.tracks(scale):
            return scale
        stamp = (*self._stamp(at.sources[:1] + at.sources[2:]), bits)
        kept = self._start
        if not keep or kept is None or kept.stamp != stamp:
            kept = self._start = _Kept(stamp, self.initial(at.source, bits))
        return kept.value + (scale - scale.detach()) if _needs_graph((scale,)) else kept.value

    def encode(self, at: LayerWeight, bits: Optional[int] = None) -> Tuple[Tensor, Steps]:
        """Encode the weight: codes, output channels first, and steps, at `bits` (default: those of evaluation)."""
        reading = self.reading()
        scale = self._scale(at, bits or reading.bits)
        return self.quantizer.encode(self.channels_first(at.source), scale, bits or self._bits(reading))

    @torch.no_grad()
    def track(self, at: LayerWeight, bits: Optional[int] = None) -> None:
        """Set a learned scale that tracks the weight to what the weight gives now (at `bits`)."""
        scale = at.scale
        if scale is None or self.tracked is None or not scale.numel() or scale.is_meta or _traced(scale):
            return  # (DeepSpeed's ZeRO 3 keeps parameters elsewhere)
        with _tracking:
            if not self.tracks(scale):
                self.tracked = None
                return
            tracked = self.initial(at.source, bits)
            if not torch.equal(scale, tracked):
                scale.copy_(tracked)
            self.tracked = tracked

    def untrained(self, at: LayerWeight, scale: Optional[Tensor], weight: Optional[Tensor]) -> bool:
        """Whether a scale that is to be loaded is only what a weight gives: the present one, or the one loaded with it.

        Args:
            scale: the scale; None: none is loaded
            weight: the float weight that is loaded; None: none is
        """
        if scale is None:
            return weight is not None or self.tracks(at.scale)
        if scale.numel() == 0:
            return False  # DeepSpeed's ZeRO 3 keeps trained parameters elsewhere
        if self.tracks(scale):
            return True  # a float checkpoint, filled up with our own values, as ESPnet's init_param does
        if weight is None or weight.shape != at.parameter.shape:
            return False
        return close(scale, self.initial(weight))

    def loaded(self, at: LayerWeight, untrained: bool) -> None:
        """Called after the layer was loaded, with a scale that was `untrained` or not."""
        self.tracked = at.scale.detach().clone() if untrained else None
        self.track(at)  # at once: DeepSpeed takes its own copy of the parameters before a forward

    def tracks(self, scale: Optional[Tensor]) -> bool:
        """Whether a scale still has the value that `track` gave it. (Others set it too, as averages of models do.)"""
        if scale is None or self.tracked is None:
            return False
        with _tracking:
            return close(self.tracked, scale)

    def initial(self, weight: Tensor, bits: Optional[int] = None) -> Tensor:
        """The value that a learned scale starts with, (groups,), for a weight in its layer's layout, in its dtype."""
        return self.quantizer.initial(self.channels_first(weight), bits).to(weight.dtype)


#: Held while a scale is set and noted as set: other threads look at both.
_tracking = threading.RLock()


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two scales are the same, but for rounding."""
    return a.shape == b.shape and torch.allclose(a.to(b), b, rtol=1e-6, atol=0)


def _traced(tensor: Tensor) -> bool:
    """Whether a tensor has no numbers, as in an export."""
    return torch.compiler.is_compiling() and type(tensor) not in (Tensor, nn.Parameter)


def _needs_graph(sources: Tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(source.requires_grad for source in sources)


def _version(tensor: Tensor) -> Tuple:
    """A stamp of a tensor, which differs where it has changed or is another."""
    # tensors made in inference mode count no versions; nothing can change them in place outside it
    version = 0 if tensor.is_inference() else tensor._version
    storage = StorageWeakRef(tensor.untyped_storage())  # an address alone may be used again
    return storage, tensor.data_ptr(), version, tensor.dtype, tensor.device


def _same(tensor: Tensor) -> Tensor:
    return tensor
