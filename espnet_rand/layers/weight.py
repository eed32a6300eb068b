"""One quantized weight of a model: when it is computed, and how long a computed one is kept."""

from contextlib import nullcontext
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from espnet_rand.layers.clock import Clock, recomputing
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

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "eval_bits": self.asked, "_kept": {}, "_start": None}

    @property
    def asked(self) -> Optional[int]:
        """The bits that this computation evaluates at; None: the default."""
        return self.clock.told(self).bits.get(self, self.eval_bits)

    @property
    def bits(self) -> int:
        """In evaluation, and in a packed file."""
        return self.asked or self.quantizer.precision.highest

    @property
    def on(self) -> bool:
        """Whether this computation quantizes. What a checkpoint recomputes does so if its forward did."""
        return self not in self.clock.told(self).off

    @torch.compiler.disable
    def read(self, layer: Any, name: str) -> Optional[Tensor]:
        """What `layer` computes with in place of its parameter `name`; None: with the parameter.

        In evaluation the rounded weight. In training the estimator's, while a forward runs;
        outside of one the float weight itself, which is what optimizers, initializations and
        code that ties weights want to see.
        """
        if not self.on:
            return None
        if not layer.training:
            return self._evaluation(layer, name)
        if not self.clock.running:
            return None
        if self.clock.step < self.quantizer.start_step:
            return self._waiting(layer, name)
        return self._training(layer, name)

    def _waiting(self, layer: Any, name: str) -> Optional[Tensor]:
        """Before `start_step`: the float weight. A learned scale gets a gradient of 0, as DDP wants one."""
        scale = layer.scale_parameter(name)
        return None if scale is None else layer.source(name) + 0 * scale.sum()

    def _training(self, layer: Any, name: str) -> Tensor:
        graph = _needs_graph(layer.sources(name))
        stamp = (self.clock.step,)
        # (What a checkpoint recomputes inside backward may get a graph of its own: not for others.)
        kept = self._kept.get(graph)  # looked at once: another thread may be training as well
        if not recomputing() and kept is not None and kept.stamp == stamp:
            return kept.value
        self.follow(layer, name)
        self.followed = None
        # What a checkpoint sees saved must not depend on which of its blocks used the weight first.
        with saved_tensors_hooks(_same, _same) if graph else nullcontext():
            value = self._quantize(layer, name, training=True)
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

    def _evaluation(self, layer: Any, name: str) -> Tensor:
        sources, asked = layer.sources(name), self.asked
        if torch.compiler.is_compiling():
            return self._quantize(layer, name, training=False)
        if _needs_graph(sources):
            if asked is None:
                self.follow(layer, name)  # an optimizer may go on from there
            return self._quantize(layer, name, training=False)
        stamp = self._stamp(sources, asked)
        kept = self._kept.get(False)  # looked at once: other threads may evaluate at other bits
        if kept is None or kept.stamp != stamp:
            kept = _Kept(stamp, self._quantize(layer, name, training=False))
            self._kept = {False: kept}
        return kept.value

    def _stamp(self, sources: Tuple[Tensor, ...], bits: Optional[int]) -> Tuple:
        return (bits, torch.is_inference_mode_enabled(), *map(_version, sources))

    def _quantize(self, layer: Any, name: str, training: bool) -> Tensor:
        weight = layer.source(name)
        value = self.quantizer(
            self.rows(weight),
            layer.scale_parameter(name) if training else self._scale(layer, name, self.asked),
            training=training,
            generator=self.clock.noise(weight.device, self.index) if training else None,
            bits=self._drawn() if training else self.bits,
        )
        return self.unrows(value)

    def _scale(self, layer: Any, name: str, bits: Optional[int]) -> Optional[Tensor]:
        """The learned scale that evaluation at `bits` computes with. It changes no parameter: other threads read it."""
        scale = layer.scale_parameter(name)
        if torch.compiler.is_compiling() or not self.follows(scale):  # (there is nothing to look at in an export)
            return scale
        stamp = self._stamp(layer.sources(name)[:1] + layer.sources(name)[2:], bits)
        kept = self._start
        if kept is None or kept.stamp != stamp:
            kept = self._start = _Kept(stamp, self.initial(layer.source(name), bits))
        start = kept.value
        return start + (scale - scale.detach()) if _needs_graph((scale,)) else start

    def _drawn(self) -> int:
        precision = self.quantizer.precision
        drawn = isinstance(precision, DrawnPrecision)
        return self.clock.drawing(precision, self.layer, self.index) if drawn else precision.bits

    def encode(self, layer: Any, name: str, bits: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """Codes, output channels first, and scales of evaluation (see WeightQuantizer.encode); `bits`: of others."""
        rows = self.rows(layer.source(name))
        return self.quantizer.encode(rows, self._scale(layer, name, bits or self.asked), bits or self.bits)

    @torch.no_grad()
    def place(self, layer: Any, name: str, rows: Tensor, scales: Tensor) -> None:
        """Set the float weight, output channels first, and the learned scale to that of step sizes, (groups,)."""
        layer._parameters[name].copy_(self.unrows(rows))
        layer.scale_parameter(name).copy_(self.quantizer.parameter(rows, scales, self.bits))
        self.followed = None

    @torch.no_grad()
    def follow(self, layer: Any, name: str) -> None:
        """Set a learned scale that nobody trained or loaded to what the present weights give."""
        scale = layer.scale_parameter(name)
        if not self.follows(scale):
            self.followed = None
            return
        self.followed = self.initial(layer.source(name))
        if not torch.equal(scale, self.followed):
            scale.copy_(self.followed)

    def follows(self, scale: Optional[Tensor]) -> bool:
        """Whether a scale is what it was last set to here: others set it as well, as averages of models do."""
        followed = self.followed
        return followed is not None and close(followed, scale)

    def initial(self, weight: Tensor, bits: Optional[int] = None) -> Tensor:
        """The learned scale that a weight in the layer's own layout starts with, (groups,), in the weight's dtype."""
        return self.quantizer.initial(self.rows(weight), bits).to(weight.dtype)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two scales are the same, but for rounding."""
    return a.shape == b.shape and torch.allclose(a.to(b), b, rtol=1e-6, atol=0)


def _needs_graph(sources: Tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(source.requires_grad for source in sources)


def _version(tensor: Tensor) -> Tuple:
    # tensors made in inference mode count no versions; nothing can change them in place outside it
    version = 0 if tensor.is_inference() else tensor._version
    storage = StorageWeakRef(tensor.untyped_storage())  # an address alone may be used again
    return storage, tensor.data_ptr(), version, tensor.dtype, tensor.device


def _same(tensor: Tensor) -> Tensor:
    return tensor
