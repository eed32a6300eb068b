"""Computes on a few rows at a time, where that is faster."""

import functools
from typing import Any, Callable

import torch
from torch import Tensor

# float32 numbers of a block: some temporaries of this size stay in a core's cache
_BLOCK = 2**17


def rowwise(function: Callable) -> Callable:
    """Decorator for functions of (groups, ...) tensors that treat each row by itself.

    On a CPU the function gets the rows in blocks, so that temporaries are as large as a block and not as
    the weight (twice as fast on an embedding of 20 million weights). It returns a tensor with a row for
    each row, or a tuple of such tensors and None.
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        rows, members = args[0].shape
        step = max(1, _BLOCK // max(1, members))
        if args[0].device.type != "cpu" or step >= rows:
            return function(*args)
        whole = None
        for start in range(0, rows, step):
            block = slice(start, start + step)
            part = function(*(a[block] if isinstance(a, Tensor) else a for a in args))
            parts = part if isinstance(part, tuple) else (part,)
            if whole is None:
                whole = tuple(None if p is None else p.new_empty(rows, *p.shape[1:]) for p in parts)
            for all_rows, p in zip(whole, parts):
                if p is not None:
                    all_rows[block] = p
        return whole if isinstance(part, tuple) else whole[0]

    return torch.no_grad()(call)
