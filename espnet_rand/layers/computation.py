"""Tells computations something in a block, in its thread alone, and keeps how they read weights.

`evaluating_at` and `disabled` tell a model something for a block: the computations in that block, and not those of
other threads. A context variable holds it. The workers of a pool do not see it: enter the block in what they run.

A checkpoint (torch.utils.checkpoint) keeps a block's inputs and not its activations. Backward runs the block again, to
have them: the recomputation. It must read the weights as the forward did: with the same noise and bits, or in float.

What holds during backward does not say how that was. By then other forwards may have begun, and `with disabled(model)`
may have ended. Backward may run in another thread: its caller's, and on CUDA one of autograd's own. But autograd
numbers its nodes as it makes them, and backward knows at which node it is. So each read of a weight notes how it was
read, and the number of the next node (`Readings`). A recomputation looks for the reading that belongs to its node:
- Without `use_reentrant` it begins at a node of the block. It takes the last reading before that node.
- With it the block has one node, made just before it, and no graph. It takes the first one after, made without a graph.
"""

import sys
import threading
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Collection, Deque, Iterator, Mapping, NamedTuple, Optional, Tuple

import torch
from torch.autograd.function import BackwardCFunction

from espnet_rand.errors import QuantizationError

#: The number of readings of a weight that are kept. Forwards before them can't be recomputed.
_REMEMBERED = 1024


class _Block:
    """Holds what a block tells the computations in it; see `telling`."""

    def __init__(self, off: Collection[Any], bits: Mapping[Any, Optional[int]]):
        self.off = frozenset(off)
        self.bits = bits
        self.ended = False
        self.task = torch._C._current_graph_task_id()  # the backward that runs; -1: none does


_blocks: ContextVar[Tuple[_Block, ...]] = ContextVar("blocks", default=())


@contextmanager
def telling(off: Collection[Any] = (), bits: Mapping[Any, Optional[int]] = {}) -> Iterator[None]:
    """Tell the computations of a block this, beside what they are told already. Inner blocks go over outer ones.

    Args:
        off: quantized weights to compute with in float
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
    """A way in which a weight is read.

    Attributes:
        number: number of the training forward, from 0; in evaluation, of the last one
        off: whether in float
        bits: bits that evaluation is asked for; None: the highest that the weight is trained with
    """

    number: int
    off: bool
    bits: Optional[int]

    def told(self, weight: Any, task: Optional[int] = None) -> "Reading":
        """Change this reading by what the blocks of the computation say.

        Args:
            task: count only blocks that were entered in this backward; None: all
        """
        off, bits = self.off, self.bits
        for block in _blocks.get():
            if not block.ended and (task is None or block.task == task):
                off = off or weight in block.off
                bits = block.bits.get(weight, bits)
        return Reading(self.number, off, bits)


class _Noted(NamedTuple):
    """A reading that was noted.

    Attributes:
        thread: the thread that read
        node: the number of autograd's next node then
        graph: whether autograd made nodes
        again: whether a recomputation read
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
        """Note that this thread reads the weight."""
        node = torch.autograd._get_sequence_nr()
        self._noted.append(_Noted(_this_thread(), node, torch.is_grad_enabled(), recomputing(), reading))

    def recomputed(self) -> Optional[Reading]:
        """The reading that a checkpoint repeats now; None: none is known.

        Raises:
            QuantizationError: it can't be told, since threads read the weight in different ways, or it was too long ago
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
                "a checkpoint is recomputed, and it can't be told which forward it belongs to: several threads "
                "computed with the model. Fix: train it in one thread, or without gradient checkpointing"
            )
        if len(noted) == _REMEMBERED and (not found or noted[0].node > number):
            raise QuantizationError(
                f"a checkpoint is recomputed whose forward {_REMEMBERED} or more others came after. "
                "Fix: call backward earlier"
            )
        return next(iter(found), None)


def _is_nested(node: Any) -> bool:
    """Whether a reentrant checkpoint, another than this node, runs backward of what it recomputed itself."""
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
    """An object of this thread alone. (Python uses the numbers of threads again.)"""
    if not hasattr(_here, "thread"):
        _here.thread = object()
    return _here.thread


def recomputing() -> bool:
    """Whether autograd is at a node, in backward. Then a layer's forward is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1 and torch._C._current_autograd_node() is not None
