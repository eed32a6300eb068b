"""The forwards of a quantized model: their numbers, and what each read its weights as.

A checkpoint (torch.utils.checkpoint) keeps a block's inputs and not its activations. Backward runs the block again, to
have them: the recomputation. It must read the weights as the forward did: with the same noise and bits, or in float.

What holds during backward does not say how that was. By then other forwards may have begun, and `with disabled(model)`
may have ended. Backward may run in another thread: its caller's, and on CUDA one of autograd's own. But autograd
numbers its nodes as it makes them, and backward knows at which node it is. So each read of a weight notes what it was
read as, and the number of the next node (`Readings`). A recomputation looks for the reading that belongs to its node:
- Without `use_reentrant` it begins at a node of the block. It takes the last reading before that node.
- With it the block has one node, made just before it, and no graph. It takes the first one after, made without a graph.

A training forward has a number. This and the seed give its noise and the bits that are drawn: a run can be repeated,
and a resumed run goes on with fresh noise.

Whoever tells a model something for a block (`evaluating_at`, `disabled`) tells it the computations of that block alone,
and not those of other threads: a context variable holds it. A pool's workers do not see it: enter it in what they run.
"""

import hashlib
import random
import struct
import sys
import threading
import weakref
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Collection, Deque, Iterator, Mapping, NamedTuple, Optional, Tuple

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction

from espnet_rand.errors import QuantizationError
from espnet_rand.quantizers import DrawnPrecision

#: So many readings of a weight are kept in mind: those before can't be recomputed.
_REMEMBERED = 1024


class _Block:
    """A block in which computations are told something; see `telling`."""

    def __init__(self, off: Collection[Any], bits: Mapping[Any, Optional[int]]):
        self.off = frozenset(off)
        self.bits = bits
        self.ended = False
        self.task = torch._C._current_graph_task_id()  # of the backward that runs; -1: none does


_blocks: ContextVar[Tuple[_Block, ...]] = ContextVar("blocks", default=())


@contextmanager
def telling(off: Collection[Any] = (), bits: Mapping[Any, Optional[int]] = {}) -> Iterator[None]:
    """A block whose computations are told this, beside what they are told already. Inner blocks go over outer ones.

    Args:
        off: quantized weights that are computed with in float
        bits: quantized weights -> bits to evaluate at; None: the highest that they are trained with
    """
    block = _Block(off, bits)
    _blocks.set((*_blocks.get(), block))
    try:
        yield
    finally:
        block.ended = True  # wherever else it was seen: a generator may end it in another thread
        _blocks.set(tuple(other for other in _blocks.get() if not other.ended))


class Reading(NamedTuple):
    """What a weight is read as.

    Attributes:
        number: of the training forward, from 0; in evaluation, of the last
        off: in float
        bits: that evaluation was asked for; None: the highest that the weight is trained with
    """

    number: int
    off: bool
    bits: Optional[int]

    def told(self, weight: Any, task: Optional[int] = None) -> "Reading":
        """This reading, as the blocks change it that the computation is in (those entered in backward `task`)."""
        off, bits = self.off, self.bits
        for block in _blocks.get():
            if not block.ended and (task is None or block.task == task):
                off = off or weight in block.off
                bits = block.bits.get(weight, bits)
        return Reading(self.number, off, bits)


class _Noted(NamedTuple):
    """A reading, in a thread.

    Attributes:
        node: the number that autograd's next node gets
        graph: whether nodes are made
        again: whether it was in a recomputation
    """

    thread: object
    node: int
    graph: bool
    again: bool
    reading: Reading


class Readings:
    """The latest readings of a weight."""

    def __init__(self) -> None:
        self._noted: Deque[_Noted] = deque(maxlen=_REMEMBERED)

    def note(self, reading: Reading) -> None:
        """Note a reading in this thread."""
        node = torch.autograd._get_sequence_nr()
        self._noted.append(_Noted(_this_thread(), node, torch.is_grad_enabled(), recomputing(), reading))

    def recomputed(self) -> Optional[Reading]:
        """The reading that a checkpoint now repeats; None: none is known.

        Raises:
            QuantizationError: it can't be told, since several threads read the weight otherwise, or it was too long ago
        """
        node = torch._C._current_autograd_node()
        number, noted = node._sequence_nr(), tuple(self._noted)
        nested = _is_nested(node)
        before, after = {}, {}  # the last reading before the node, and the first without a graph after it, by threads
        for thread, at, graph, again, reading in noted:
            if again != nested or (again and thread is not _this_thread()):
                continue
            if at <= number:
                before[thread] = reading
            elif not graph:
                after.setdefault(thread, reading)
        reentrant = isinstance(node, BackwardCFunction)
        found = {*after.values()} if reentrant else {*before.values()}
        if reentrant and not hasattr(node, "run_function"):  # as torch's and DeepSpeed's have it: it may be another
            found |= {*before.values()}
        if len(found) > 1:
            raise QuantizationError(
                "a checkpoint is recomputed of which it can't be told to which forward it belongs: several threads "
                "computed with the model. Fix: train it in one thread, or without gradient checkpointing"
            )
        if len(noted) == _REMEMBERED and (not found or noted[0].node > number):
            raise QuantizationError(
                f"a checkpoint is recomputed of a forward after which {_REMEMBERED} or more others came. "
                "Fix: call backward earlier"
            )
        return next(iter(found), None)


def _is_nested(node: Any) -> bool:
    """Whether a reentrant checkpoint, which is another than this node, runs backward of what it recomputed itself."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "backward":
            context = frame.f_locals.get("ctx")
            if context is not node and hasattr(context, "run_function"):
                return True
        frame = frame.f_back
    return False


_here = threading.local()


def _this_thread() -> object:
    """One object for each thread. (Python's numbers of threads are used again.)"""
    if not hasattr(_here, "thread"):
        _here.thread = object()
    return _here.thread


class Forward:
    """One forward of a model, or of a layer that is called by itself.

    Attributes:
        number: of the training forward, from 0; of one in evaluation, that of the last
        depth: how many forwards of layers are running within
        outer: the forward of the same model within which it runs
        counted: whether it has its number
        interrupted: an exception came through it after which torch calls no hook (Ctrl-C)
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
        """Whether it still runs. After Ctrl-C torch does not say that it ended: then its call is not on the stack.

        Args:
            calls_since: calls of the model on the stack that began later
        """
        model = self._model and self._model()
        if self.depth or not self.calls or model is None:
            return not self.interrupted
        return _calls(model) - calls_since >= self.calls


def _calls(model: nn.Module) -> int:
    """How many calls of the module this thread is in."""
    found, frame = 0, sys._getframe(1)
    while frame is not None:
        found += frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is model
        frame = frame.f_back
    return found


# the forwards that run in this computation, by their clocks
_NONE: Mapping["Clock", Forward] = {}
_running: ContextVar[Mapping["Clock", Forward]] = ContextVar("running", default=_NONE)
_counting = threading.Lock()


class Clock:
    """The forwards of one quantized model: counts them, and knows whether one is running.

    Attributes:
        forwards: training forwards that have begun, which is what `start_step` counts
        seed: from which, with the forward's number, the noise is drawn
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.forwards = 0
        # backward and its node, where a forward of the whole model was last recomputed
        self._recomputed: Optional[Tuple[int, int]] = None

    @property
    def running(self) -> bool:
        """Whether a forward of the model, or of a layer in it, is running here (or a checkpoint recomputes one)."""
        forward = self._present()
        return recomputing() or (forward is not None and forward.running())

    @property
    def number(self) -> int:
        """Of the present (or last) training forward, from 0."""
        forward = self._present()
        return max(self.forwards - 1, 0) if forward is None else forward.number

    @torch.compiler.disable
    def begin(self, model: nn.Module) -> None:
        """A forward of the whole model begins, whatever became of the one before."""
        outer = self._present()
        within = outer is not None and (recomputing() or (outer.calls > 0 and outer.running(calls_since=1)))
        if recomputing() and model.training and not within:
            self._check_alone()
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
        """Raises QuantizationError: one checkpoint recomputes several training forwards, whose noise it can't tell."""
        at = torch._C._current_graph_task_id(), torch._C._current_autograd_node()._sequence_nr()
        if self._recomputed == at:
            raise QuantizationError(
                "a checkpoint holds several forwards of one model, which its recomputation can't tell apart. Fix: "
                "checkpoint each by itself"
            )
        self._recomputed = at

    def _present(self) -> Optional[Forward]:
        return _running.get().get(self)

    def _open(self, model: Optional[nn.Module] = None, outer: Optional[Forward] = None) -> Forward:
        forward = Forward(max(self.forwards - 1, 0), model, outer)
        forward.counted = recomputing()
        _running.set({**_running.get(), self: forward})
        return forward

    def _count(self, forward: Forward) -> None:
        """It counts once, if anything in it trains."""
        if not forward.counted:
            forward.counted = True
            with _counting:
                forward.number = self.forwards
                self.forwards += 1

    def _close(self, forward: Forward) -> None:
        others = {clock: running for clock, running in _running.get().items() if clock is not self}
        _running.set(others if forward.outer is None else {**others, self: forward.outer})

    def noise(self, device: torch.device, index: int, number: int) -> torch.Generator:
        """A generator for weight number `index` in training forward `number`, other on each rank.

        It leaves torch's own random numbers alone, so that data order and dropout are what they
        would be without quantization.
        """
        return torch.Generator(device).manual_seed(self._seed(index, _rank(), number))

    def drawing(self, precision: DrawnPrecision, layer: int, index: int, number: int) -> int:
        """The bits that are drawn in training forward `number` for weight number `index`, of layer number `layer`."""
        of = {"model": 0, "layer": layer, "weight": index}[precision.per]
        rank = 0 if precision.ranks == "together" else _rank()
        return precision.draw(number, random.Random(self._seed(of, rank, number, b"bits")))

    def _seed(self, index: int, rank: int, number: int, purpose: bytes = b"") -> int:
        words = struct.pack("<4Q", self.seed % 2**64, rank, number, index)
        return int.from_bytes(hashlib.blake2b(words, digest_size=8, person=purpose).digest(), "little") >> 1


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0


def recomputing() -> bool:
    """Whether autograd is at a node, in backward: then a layer's forward is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1 and torch._C._current_autograd_node() is not None
