"""The forwards of a quantized model, and what belongs to one computation: its number, its precision, whether it is off.

A training forward has a number. From it and the seed come the noise and the precision that is drawn, so that a run
can be repeated, and a resumed run goes on with fresh noise.

Gradient checkpointing runs parts of a forward once more, inside backward, to have the activations that it did not keep.
This recomputation must see the weights that the forward saw: the same noise, the same bits, in float if it was told so.
By then other forwards may have begun, `with disabled(model)` may have ended, and backward may run in another thread: it
is up to whoever calls it, and on CUDA autograd has threads of its own. So nothing about the present says which forward
is recomputed. Autograd's nodes do. They are numbered as they are made, and backward knows at which it is: the forward
that made it is the one that is recomputed. A `Forward` remembers its first and last number, and what it was told.

Whoever tells a model something for a block (`evaluating_at`, `disabled`) tells it the computations of that block alone,
and not those of other threads: a context variable holds it.
"""

import hashlib
import math
import random
import struct
import sys
import threading
import weakref
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Collection, Deque, Dict, FrozenSet, Iterator, Mapping, NamedTuple, Optional, Set

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction

from espnet_rand.context import setting
from espnet_rand.errors import QuantizationError
from espnet_rand.quantizers import DrawnPrecision

#: Forwards whose recomputation is possible: more are not kept in mind.
_REMEMBERED = 1024


class Told(NamedTuple):
    """What a computation is told of quantized weights, which are `QuantizedWeight` objects.

    Attributes:
        off: computed with in float
        bits: to evaluate at; None: the highest that it is trained with
    """

    off: FrozenSet[Any] = frozenset()
    bits: Mapping[Any, Optional[int]] = {}


_NOTHING = Told()
_told: ContextVar[Told] = ContextVar("told", default=_NOTHING)
# the forwards that run in this computation, by their clocks
_NONE: Mapping["Clock", "Forward"] = {}
_running: ContextVar[Mapping["Clock", "Forward"]] = ContextVar("running", default=_NONE)
_counting = threading.Lock()
_here = threading.local()


def telling(off: Collection[Any] = (), bits: Mapping[Any, Optional[int]] = {}) -> Any:
    """A block whose computations are told this, beside what they are told already."""
    told = _told.get()
    return setting(_told, Told(told.off.union(off), {**told.bits, **bits}))


class Forward:
    """One forward of a model, or of a layer that is called by itself.

    Attributes:
        number: of the training forward, from 0; of one in evaluation, that of the last
        told: what its computation was told when it began
        exceptions: of weights that were told otherwise within it
        first, last: numbers of autograd's nodes that were made in it, from `first` to before `last`
        thread: in which it runs; each has numbers of its own
        depth: how many forwards of layers are running within
        outer: the forward of the same model within which it runs
        interrupted: an exception came through it after which torch calls no hook (Ctrl-C)
    """

    def __init__(self, number: int, model: Optional[nn.Module] = None, outer: Optional["Forward"] = None):
        self.number = number
        self.told = _told.get()
        self.exceptions: Dict[Any, Told] = {}
        self.first: float = torch.autograd._get_sequence_nr()
        self.last: float = math.inf
        self.thread = _this_thread()
        self.depth = 0
        self.outer = outer
        self.interrupted = self.counted = self.remembered = False
        self._model = None if model is None else weakref.ref(model)
        # 0 where torch.compile runs other frames than those of torch's code
        self._calls = 0 if model is None else _calls(model)

    def running(self, calls_since: int = 0) -> bool:
        """Whether it still runs. After Ctrl-C torch does not say that it ended: then its call is not on the stack.

        Args:
            calls_since: calls of the model on the stack that began later
        """
        model = self._model and self._model()
        if self.depth or not self._calls or model is None:
            return not self.interrupted
        return _calls(model) - calls_since >= self._calls


def _this_thread() -> object:
    """One object for each thread. (Python's numbers of threads are used again.)"""
    if not hasattr(_here, "thread"):
        _here.thread = object()
    return _here.thread


def _calls(model: nn.Module) -> int:
    """How many calls of the module this thread is in."""
    found, frame = 0, sys._getframe(1)
    while frame is not None:
        found += frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is model
        frame = frame.f_back
    return found


class Clock:
    """The forwards of one quantized model: counts them, and knows whether one is running.

    Attributes:
        forwards: training forwards that have begun, which is what `start_step` counts
        seed: from which, with the forward's number, the noise is drawn
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.forwards = 0
        self._recent: Deque[Forward] = deque(maxlen=_REMEMBERED)
        self._threads: Set[object] = set()

    @property
    def running(self) -> bool:
        """Whether a forward of the model, or of a layer in it, is running here (or a checkpoint recomputes one)."""
        forward = self._present()
        return recomputing() or (forward is not None and forward.running())

    @property
    def step(self) -> int:
        """Number of the present (or last) training forward, from 0; of the one that a checkpoint recomputes."""
        forward = self._recomputed() if recomputing() else self._present()
        return max(self.forwards - 1, 0) if forward is None else forward.number

    def told(self, weight: Any) -> Told:
        """What the present computation is told of a weight; what a checkpoint recomputes: what it was told then."""
        told = _told.get()
        if recomputing():
            forward = self._recomputed()
            return told if forward is None else forward.exceptions.get(weight, forward.told)
        forward = self._present()
        if forward is not None and told is not forward.told:
            forward.exceptions[weight] = told
        return told

    @torch.compiler.disable
    def begin(self, model: nn.Module) -> None:
        """A forward of the whole model begins, whatever became of the one before."""
        outer = self._present()
        within = outer is not None and (recomputing() or (outer._calls > 0 and outer.running(calls_since=1)))
        forward = self._open(model, outer if within else None)
        if model.training:
            self._count(forward)

    @torch.compiler.disable
    def end(self) -> None:
        """The forward that `begin` began has ended."""
        forward = self._present()
        if forward is not None:
            self._close(forward)

    @contextmanager
    def forward(self, training: bool) -> Iterator[None]:
        """A block in which a layer computes: part of the forward that is running, or one by itself."""
        forward = self._present()
        alone = forward is None or forward.interrupted
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

    def _present(self) -> Optional[Forward]:
        return _running.get().get(self)

    def _open(self, model: Optional[nn.Module] = None, outer: Optional[Forward] = None) -> Forward:
        forward = Forward(max(self.forwards - 1, 0), model, outer)
        _running.set({**_running.get(), self: forward})
        if recomputing():
            forward.counted = True
        elif torch.is_grad_enabled():
            self._remember(forward)
        return forward

    def _count(self, forward: Forward) -> None:
        """It counts once, if anything in it trains."""
        if forward.counted:
            return
        forward.counted = True
        with _counting:
            forward.number = self.forwards
            self.forwards += 1
        self._remember(forward)  # without gradients it may be a checkpoint of the whole model

    def _remember(self, forward: Forward) -> None:
        if not forward.remembered:
            forward.remembered = True
            self._recent.append(forward)
            self._threads.add(forward.thread)

    def _close(self, forward: Forward) -> None:
        forward.last = torch.autograd._get_sequence_nr()
        others = {clock: running for clock, running in _running.get().items() if clock is not self}
        _running.set(others if forward.outer is None else {**others, self: forward.outer})

    def _recomputed(self) -> Optional[Forward]:
        """The forward that a checkpoint recomputes now; None: none is known.

        Raises:
            QuantizationError: it can't be told, since several threads train the model, or too many forwards came after
        """
        node = torch._C._current_autograd_node()
        number, recent = node._sequence_nr(), tuple(self._recent)[::-1]
        found: Dict[object, Forward] = {}  # by threads
        for forward in recent:
            if forward.first <= number < forward.last:
                found.setdefault(forward.thread, forward)
                if len(self._threads) == 1:
                    return forward
        # A checkpoint of the whole model: its node is made before (the reentrant one), or one of what comes after.
        before = isinstance(node, BackwardCFunction) and hasattr(node, "run_function")
        for forward in () if found else recent:
            if before and forward.first > number:
                found[forward.thread] = forward
            elif not before and forward.first <= number:
                found.setdefault(forward.thread, forward)
        if len(found) > 1:
            raise QuantizationError(
                "a checkpoint is recomputed of which it can't be told to which forward it belongs: several threads "
                "train the model. Mend: train it in one thread, or without gradient checkpointing"
            )
        if not found and len(recent) == _REMEMBERED:
            raise QuantizationError(
                f"a checkpoint is recomputed of a forward after which {_REMEMBERED} or more others came. "
                "Mend: call backward earlier"
            )
        return next(iter(found.values()), None)

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
        return {**self.__dict__, "_recent": deque(maxlen=_REMEMBERED), "_threads": set()}


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0


def recomputing() -> bool:
    """Whether autograd is running backward: then a layer's forward is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1
