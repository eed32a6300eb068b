"""The forwards of a quantized model: their numbers, and the noise and bits that are drawn in each.

A training forward has a number. This and the seed give its noise and the bits that are drawn: a run can be repeated,
and a resumed run goes on with fresh noise.
"""

import hashlib
import random
import struct
import sys
import threading
import weakref
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Iterator, Mapping, Optional, Tuple

import torch
from torch import nn

from espnet_rand.errors import QuantizationError
from espnet_rand.layers.computation import recomputing
from espnet_rand.quantizers import DrawnPrecision


class Forward:
    """One forward of a model, or of a layer that is called by itself.

    Attributes:
        number: number of the training forward, from 0; in evaluation, of the last one
        depth: how many forwards of layers are running within it
        outer: the forward of the same model within which it runs
        counted: whether it has its number
        interrupted: whether an exception came through it after which torch calls no hook (Ctrl-C)
    """

    def __init__(self, number: int, model: Optional[nn.Module] = None, outer: Optional["Forward"] = None):
        self.number = number
        self.depth = 0
        self.outer = outer
        self.counted = self.interrupted = False
        self._model = None if model is None else weakref.ref(model)
        # 0 where torch.compile runs other frames than those of torch's code
        self.calls = 0 if model is None else _calls(model)

    def running(self, calls_since: int = 0) -> bool:
        """Whether the forward still runs. After Ctrl-C torch does not say that it ended: its call is not on the stack.

        Args:
            calls_since: number of calls of the model on the stack that began later
        """
        model = self._model and self._model()
        if self.depth or not self.calls or model is None:
            return not self.interrupted
        return _calls(model) - calls_since >= self.calls


def _calls(model: nn.Module) -> int:
    """The number of calls of a module that this thread is in."""
    found, frame = 0, sys._getframe(1)
    while frame is not None:
        found += frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is model
        frame = frame.f_back
    return found


# the forwards that this computation is in, by their clocks
_NONE: Mapping["Clock", Forward] = {}
_running: ContextVar[Mapping["Clock", Forward]] = ContextVar("running", default=_NONE)
_counting = threading.Lock()


class Clock:
    """Counts the forwards of a quantized model, and knows whether one is running.

    Attributes:
        forwards: number of training forwards that have begun, which `start_step` is compared with
        seed: the seed of the noise, together with the forward's number
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.forwards = 0
        # the backward and its node in which a forward of the whole model was last recomputed
        self._recomputed: Optional[Tuple[int, int]] = None

    @property
    def running(self) -> bool:
        """Whether a forward of the model, or of a layer in it, is running here (or a checkpoint recomputes one)."""
        forward = self._present()
        return recomputing() or (forward is not None and forward.running())

    @property
    def number(self) -> int:
        """The number of the present (or last) training forward, from 0."""
        forward = self._present()
        return max(self.forwards - 1, 0) if forward is None else forward.number

    @torch.compiler.disable
    def begin(self, model: nn.Module) -> None:
        """Begin a forward of the whole model, whatever became of the one before."""
        outer = self._present()
        within = outer is not None and (recomputing() or (outer.calls > 0 and outer.running(calls_since=1)))
        if recomputing() and model.training and not within:
            self._check_alone()
        forward = self._open(model, outer if within else None)
        if model.training:
            self._count(forward)

    @torch.compiler.disable
    def end(self) -> None:
        """End the forward that `begin` began."""
        forward = self._present()
        if forward is not None:
            self._close(forward)

    @contextmanager
    def forward(self, training: bool) -> Iterator[None]:
        """Let a layer compute in a block, as a part of the forward that is running, or as a forward of its own."""
        forward = self._present()
        alone = forward is None or not forward.running()
        if alone:
            forward = self._open()
        if training:
            self._count(forward)
        forward.depth += 1
        try:
            yield
        except BaseException as e:
            forward.interrupted = not isinstance(e, Exception)
            raise
        finally:
            forward.depth -= 1
            if alone:
                self._close(forward)

    def _check_alone(self) -> None:
        """Raises QuantizationError: one checkpoint recomputes several training forwards, and can't tell their noise."""
        at = torch._C._current_graph_task_id(), torch._C._current_autograd_node()._sequence_nr()
        if self._recomputed == at:
            raise QuantizationError(
                "a checkpoint holds several forwards of one model, which its recomputation can't tell apart. Fix: "
                "checkpoint each by itself"
            )
        self._recomputed = at

    def _present(self) -> Optional[Forward]:
        """The forward that this computation is in."""
        return _running.get().get(self)

    def _open(self, model: Optional[nn.Module] = None, outer: Optional[Forward] = None) -> Forward:
        """Make a forward the present one."""
        forward = Forward(max(self.forwards - 1, 0), model, outer)
        forward.counted = recomputing()
        _running.set({**_running.get(), self: forward})
        return forward

    def _count(self, forward: Forward) -> None:
        """Give a training forward its number, once."""
        if not forward.counted:
            forward.counted = True
            with _counting:
                forward.number = self.forwards
                self.forwards += 1

    def _close(self, forward: Forward) -> None:
        """Make the forward around this one, if any, the present one."""
        others = {clock: running for clock, running in _running.get().items() if clock is not self}
        _running.set(others if forward.outer is None else {**others, self: forward.outer})

    def noise(self, device: torch.device, index: int, number: int) -> torch.Generator:
        """A generator for weight number `index` in training forward `number`, different on each rank.

        It leaves torch's own random numbers alone, so that data order and dropout are what they
        would be without quantization.
        """
        return torch.Generator(device).manual_seed(self._seed(index, _rank(), number))

    def draw_bits(self, precision: DrawnPrecision, layer: int, index: int, number: int) -> int:
        """Draw the bits of weight number `index`, in layer number `layer`, in training forward `number`."""
        part = {"model": 0, "layer": layer, "weight": index}[precision.per]
        rank = 0 if precision.ranks == "together" else _rank()
        return precision.draw(number, random.Random(self._seed(part, rank, number, b"bits")))

    def _seed(self, index: int, rank: int, number: int, purpose: bytes = b"") -> int:
        words = struct.pack("<4Q", self.seed % 2**64, rank, number, index)
        return int.from_bytes(hashlib.blake2b(words, digest_size=8, person=purpose).digest(), "little") >> 1


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0
