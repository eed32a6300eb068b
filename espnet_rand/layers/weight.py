"""One quantized weight of a model: when it is computed, and how long a computed one is kept."""

import hashlib
import random
import struct
from collections import deque
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from espnet_rand.quantizers import DrawnPrecision, WeightQuantizer


class Clock:
    """The forwards of one quantized model: counts them, and knows whether one is running.

    Attributes:
        forwards: training forwards that have begun, which is what `start_step` counts
        seed: from which, with the forward's number, the noise is drawn
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.forwards = 0
        self._depth = 0
        self._counted = False
        # autograd's number of the first node of recent forwards
        self._first_nodes: Deque[int] = deque(maxlen=64)

    @property
    def running(self) -> bool:
        """Whether a forward of the model, or of a layer in it, is running (or a checkpoint recomputes one)."""
        return self._depth > 0 or recomputing()

    @property
    def step(self) -> int:
        """Number of the present (or last) training forward, from 0; of the one that a checkpoint recomputes."""
        later = 0
        if recomputing():
            node = torch._C._current_autograd_node()._sequence_nr()
            later = sum(first > node for first in self._first_nodes)
        return max(self.forwards - 1 - later, 0)

    @torch.compiler.disable
    def begin(self, training: bool) -> None:
        """A forward of the whole model begins, whatever became of the one before."""
        if not recomputing():
            self._depth = 0
        self.enter(training)

    def enter(self, training: bool) -> None:
        """A forward of the model or of a layer in it begins: it counts once, if anything in it trains."""
        if self._depth == 0:
            self._counted = recomputing()
        if training and not self._counted:
            self.forwards += 1
            self._first_nodes.append(torch.autograd._get_sequence_nr())
            self._counted = True
        self._depth += 1

    @torch.compiler.disable
    def leave(self) -> None:
        """The forward that `enter` began has ended."""
        self._depth = max(self._depth - 1, 0)

    @contextmanager
    def forward(self, training: bool):
        """`enter` and `leave` around a block."""
        self.enter(training)
        try:
            yield
        finally:
            self.leave()

    def noise(self, device: torch.device, index: int) -> torch.Generator:
        """A generator for weight number `index` in the present forward, other on each rank.

        It leaves torch's own random numbers alone, so that data order and dropout are what they
        would be without quantization.
        """
        return torch.Generator(device).manual_seed(self._seed(index, _rank()))

    def drawing(self, precision: DrawnPrecision, layer: int, index: int) -> int:
        """The bits that are drawn in the present forward for weight number `index`, of layer number `layer`."""
        number = {"model": 0, "layer": layer, "weight": index}[precision.per]
        rank = 0 if precision.ranks == "together" else _rank()
        return precision.draw(self.step, random.Random(self._seed(number, rank, b"bits")))

    def _seed(self, index: int, rank: int, purpose: bytes = b"") -> int:
        words = struct.pack("<4Q", self.seed % 2**64, rank, self.step, index)
        return int.from_bytes(hashlib.blake2b(words, digest_size=8, person=purpose).digest(), "little") >> 1

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_depth": 0, "_first_nodes": deque(maxlen=64)}


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0


def recomputing() -> bool:
    """Whether autograd is running backward: then a layer's forward is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1


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
    """

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
        self.enabled = True
        #: in evaluation, if not the default (see `espnet_rand.layers.set_eval_bits`)
        self.eval_bits: Optional[int] = None
        # training forwards during which it was not enabled
        self._off: Deque[int] = deque(maxlen=64)
        #: what a learned scale was set to that follows the weights; None: it was trained or loaded, or there is none
        self.followed: Optional[Tensor] = None
        self._kept: Dict[bool, _Kept] = {}

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    @property
    def bits(self) -> int:
        """In evaluation, and in a packed file."""
        return self.eval_bits or self.quantizer.precision.highest

    @torch.compiler.disable
    def read(self, layer: Any, name: str) -> Optional[Tensor]:
        """What `layer` computes with in place of its parameter `name`; None: with the parameter.

        In evaluation the rounded weight. In training the estimator's, while a forward runs;
        outside of one the float weight itself, which is what optimizers, initializations and
        code that ties weights want to see.
        """
        if not self.on(layer):
            return None
        if not layer.training:
            return self._evaluation(layer, name)
        if not self.clock.running:
            return None
        if self.clock.step < self.quantizer.start_step:
            return self._waiting(layer, name)
        return self._training(layer, name)

    def on(self, layer: Any) -> bool:
        """Whether `layer` quantizes. What a checkpoint recomputes does so if its forward did."""
        if layer.training and recomputing():
            return self.clock.step not in self._off
        if layer.training and self.clock.running and not self.enabled:
            self._off.append(self.clock.step)
        return self.enabled

    def _waiting(self, layer: Any, name: str) -> Optional[Tensor]:
        """Before `start_step`: the float weight. A learned scale gets a gradient of 0, as DDP wants one."""
        scale = layer.scale_parameter(name)
        return None if scale is None else layer.source(name) + 0 * scale.sum()

    def _training(self, layer: Any, name: str) -> Tensor:
        graph = _needs_graph(layer.sources(name))
        stamp = (self.clock.step,)
        # (What a checkpoint recomputes inside backward may get a graph of its own: not for others.)
        if not recomputing() and self._good(graph, stamp):
            return self._kept[graph].value
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

    def _good(self, graph: bool, stamp: Tuple) -> bool:
        kept = self._kept.get(graph)
        return kept is not None and kept.stamp == stamp

    def _passed(self, grad: Tensor) -> None:
        """Backward has passed every use of the weight: nothing needs it any more."""
        self._kept.pop(True, None)

    def forget(self) -> None:
        """Keep no computed weight: the parameter may have changed in a way that cannot be seen (`.data`)."""
        self._kept = {}

    def _evaluation(self, layer: Any, name: str) -> Tensor:
        sources = layer.sources(name)
        if _needs_graph(sources):
            self.follow(layer, name, self.eval_bits)
            return self._quantize(layer, name, training=False)
        if not self._good(False, self._stamp(sources)):
            self.follow(layer, name, self.eval_bits)  # which may change the scale
            self._kept = {False: _Kept(self._stamp(sources), self._quantize(layer, name, training=False))}
        return self._kept[False].value

    def _stamp(self, sources: Tuple[Tensor, ...]) -> Tuple:
        return (self.eval_bits, torch.is_inference_mode_enabled(), *map(_version, sources))

    def _quantize(self, layer: Any, name: str, training: bool) -> Tensor:
        weight = layer.source(name)
        value = self.quantizer(
            self.rows(weight),
            layer.scale_parameter(name),
            training=training,
            generator=self.clock.noise(weight.device, self.index) if training else None,
            bits=self._drawn() if training else self.bits,
        )
        return self.unrows(value)

    def _drawn(self) -> int:
        precision = self.quantizer.precision
        drawn = isinstance(precision, DrawnPrecision)
        return self.clock.drawing(precision, self.layer, self.index) if drawn else precision.bits

    def encode(self, layer: Any, name: str, bits: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """Codes, output channels first, and scales of evaluation (see WeightQuantizer.encode); `bits`: of others."""
        self.follow(layer, name, self.eval_bits)
        rows = self.rows(layer.source(name))
        return self.quantizer.encode(rows, layer.scale_parameter(name), bits or self.bits)

    @torch.no_grad()
    def place(self, layer: Any, name: str, rows: Tensor, scales: Tensor) -> None:
        """Set the float weight, output channels first, and the learned scale to that of step sizes, (groups,)."""
        layer._parameters[name].copy_(self.unrows(rows))
        layer.scale_parameter(name).copy_(self.quantizer.parameter(rows, scales, self.bits))
        self.followed = None

    @torch.no_grad()
    def follow(self, layer: Any, name: str, bits: Optional[int] = None) -> None:
        """Set a learned scale that nobody trained or loaded to what the present weights give (at other `bits`)."""
        scale = layer.scale_parameter(name)
        if not self.follows(scale):
            self.followed = None
            return
        self.followed = self.initial(layer.source(name), bits)
        if not torch.equal(scale, self.followed):
            scale.copy_(self.followed)

    def follows(self, scale: Optional[Tensor]) -> bool:
        """Whether a scale is what it was last set to here: others set it as well, as averages of models do."""
        return self.followed is not None and close(self.followed, scale)

    def initial(self, weight: Tensor, bits: Optional[int] = None) -> Tensor:
        """The learned scale that a weight in the layer's own layout starts with, in the weight's dtype."""
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
