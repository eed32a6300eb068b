"""Quantization once more, written naively: loops over groups and weights, plain autograd."""

import math

import numpy as np
import torch

from espnet_rand.quantizers import (
    AbsMax,
    Clip,
    LearnedScale,
    Noise,
    PerChannel,
    PerColumn,
    PerGroup,
    PerTensor,
    Rand,
    StraightThrough,
)

SCALES = [
    AbsMax(),
    Rand(mode=1),
    Rand(mode=2),
    Rand(mode=2, p=3.5, k=4),
    Rand(mode=2, c="mean"),
    Rand(mode=3, init="norm"),
    Rand(mode=3, init="norm", c="mean", k=1.5),
    Rand(mode=3, init="clip"),
    LearnedScale(init="lsq+"),
    LearnedScale(init="lsq"),
    LearnedScale(init="absmax"),
    LearnedScale(init="clip"),
    Clip(),
    Clip(a_min=0.5, candidates=5, error="absolute"),
]
ESTIMATORS = [StraightThrough(), Noise(), Noise("normal")]
GRANULARITIES = [PerTensor(), PerChannel(), PerColumn(), PerGroup(1), PerGroup(3), PerGroup(4), PerGroup(64)]


def groups(shape, granularity):
    """Flat indices of the weights of each group, in the order of the scales."""
    total = math.prod(shape)
    length = total // shape[0]
    if isinstance(granularity, PerTensor):
        return [list(range(total))]
    if isinstance(granularity, PerColumn):
        return [list(range(column, total, length)) for column in range(length)]
    size = granularity.group_size if isinstance(granularity, PerGroup) else length
    found = []
    for channel in range(shape[0]):
        for start in range(0, length, size):
            stop = min(start + size, length)
            found.append([channel * length + i for i in range(start, stop)])
    return found


def rounded(weight, scales, bits, granularity):
    """Codes and values of a float32 weight, one number at a time."""
    q = 2 ** (bits - 1) - 1
    flat = weight.flatten().tolist()
    codes, values = np.zeros(len(flat), np.int8), np.zeros(len(flat), np.float32)
    members = groups(weight.shape, granularity)
    assert len(members) == len(scales)
    for indices, s in zip(members, scales.tolist()):
        for i in indices:
            code = min(max(round(float(np.float32(flat[i]) / np.float32(s))), -q - 1), q)
            codes[i], values[i] = code, np.float32(code) * np.float32(s)
    return tuple(torch.from_numpy(x).view(weight.shape).to(weight.device) for x in (codes, values))


def step(scale, w, q, parameter=None):
    """Step size of one group, a 1-D tensor, by torch's own operations and gradients."""
    d = w.numel()
    if isinstance(scale, AbsMax):
        return w.detach().abs().max() / q
    if isinstance(scale, Rand):
        norm = w.abs().max() if scale.mode == 1 else (w.abs() ** scale.p).sum() ** (1 / scale.p)
        c = parameter.exp() if scale.mode == 3 else 1 if scale.mode == 1 else rand_c(scale, d)
        return c * norm / q
    if isinstance(scale, LearnedScale):
        factor = 1 / math.sqrt(d * q)
        return parameter * factor + (parameter - parameter * factor).detach()
    steps = [a * w.detach().abs().max() / q for a in np.linspace(1, scale.a_min, scale.candidates)]
    return min(steps, key=lambda s: error(scale, w.detach(), s, q))


def rand_c(scale, d):
    """c of mode 2."""
    return scale.k ** (-1 / scale.p) if scale.c == "ties" else scale.k / d ** (1 / scale.p)


def error(scale, w, s, q):
    """What clip search makes small: the error of a rounded group, weight by weight."""
    power = 2 if scale.error == "squared" else 1
    return sum(abs(x - s.item() * min(max(round(x / s.item()), -q - 1), q)) ** power for x in w.tolist())


def initial(scale, w, q):
    """Starting value of a learned scale, of one group."""
    w = w.detach()
    if isinstance(scale, Rand):
        if scale.init == "norm":
            return torch.tensor(math.log(rand_c(scale, w.numel())), dtype=w.dtype)
        return (step(Clip(), w, q) * q / (w.abs() ** scale.p).sum() ** (1 / scale.p)).log()
    if scale.init in ("absmax", "clip"):
        return step(AbsMax() if scale.init == "absmax" else Clip(), w, q)
    if scale.init == "lsq":
        return 2 * w.abs().mean() / math.sqrt(q)
    mean, std = w.mean(), w.std(unbiased=False)
    return torch.maximum((mean - 3 * std).abs(), (mean + 3 * std).abs()) / (q + 1)


def straight_through(w, s, q):
    """Rounding whose gradient is written with `detach`."""
    x = w / s
    code = x.detach().round()
    inside = (code >= -q - 1) & (code <= q)
    return s * torch.where(inside, x + (code - x).detach(), code.clamp(-q - 1, q))


def add_noise(w, s, q, u):
    """Pseudo-quantization noise by torch's own clipping."""
    bound = (q + 0.5) * s
    return torch.minimum(torch.maximum(w, -bound), bound) + s * u
