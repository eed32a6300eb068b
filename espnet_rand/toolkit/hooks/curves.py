"""Curves of how each quantized weight is rounded, in TensorBoard and wandb, once an epoch beside ESPnet's own."""

import functools
from contextvars import ContextVar
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import numpy as np
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import Trainer
from torch import nn

from espnet_rand.context import setting
from espnet_rand.layers import NamedWeight, quantized_weights, rounding_statistics

# the bars of a histogram of weights
_BARS = 64


class _Curves:
    """The numbers of a model's weights, computed at most once an epoch.

    Args:
        kind: the option `histograms`
    """

    def __init__(self, model: nn.Module, kind: str):
        self._model, self._kind = model, kind
        self._epoch: Optional[int] = None
        self._scalars: Dict[str, float] = {}

    def scalars(self, epoch: int) -> Dict[str, float]:
        """The numbers of `rounding_statistics`, by names such as clipped/encoder.embed.weight."""
        if epoch != self._epoch:
            statistics = {name: rounding_statistics(weight) for name, weight in self._weights().items()}
            self._scalars = {f"{what}/{name}": v for name, found in statistics.items() for what, v in found.items()}
            self._epoch = epoch
        return self._scalars

    def histograms(self) -> Iterator[Tuple[str, np.ndarray, np.ndarray]]:
        """Yield a name, finite numbers and the edges of bars for each weight, if `histograms` asks for them."""
        for name, weight in self._weights().items() if self._kind != "none" else ():
            numbers, edges = _codes(weight) if self._kind == "codes" else _floats(weight)
            if len(numbers):
                yield f"{self._kind}/{name}", numbers, edges

    def _weights(self) -> Dict[str, NamedWeight]:
        return quantized_weights(self._model)


def _codes(weight: NamedWeight) -> Tuple[np.ndarray, np.ndarray]:
    """The codes of a weight, and a bar for each that there may be."""
    return weight.encode()[0].flatten().cpu().numpy(), np.arange(weight.grid.low, weight.grid.high + 2) - 0.5


def _floats(weight: NamedWeight) -> Tuple[np.ndarray, np.ndarray]:
    """The finite numbers of a float weight, and bars over their range."""
    numbers = weight.channels_first.double().flatten().cpu().numpy()  # float32 has no bars between equal numbers
    numbers = numbers[np.isfinite(numbers)]
    return numbers, np.histogram_bin_edges(numbers, _BARS)


#: What this computation trains; None: it is not quantized.
_training: ContextVar[Optional[_Curves]] = ContextVar("training", default=None)


def register() -> None:
    """Let ESPnet's trainer write the curves beside its own. Where it writes none, nothing is computed."""
    Trainer.run = classmethod(_around(vars(Trainer)["run"].__func__, _run))
    Reporter.tensorboard_add_scalar = _around(Reporter.tensorboard_add_scalar, _to_tensorboard)
    Reporter.wandb_log = _around(Reporter.wandb_log, _to_wandb)


def _around(original: Callable, wrapper: Callable) -> Callable:
    """A function that calls `wrapper(original, ...)`."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    return call


def _run(original: Callable, trainer: type, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Train a model."""
    quantization: Any = getattr(model, "_quantization", None)
    with setting(_training, quantization and _Curves(model, quantization.config.histograms)):
        original(trainer, model, *args, **kwargs)


def _to_tensorboard(
    original: Callable, reporter: Reporter, writer: Any, epoch: Optional[int] = None, key1: Optional[str] = None
) -> None:
    """Write the curves of an epoch; those of the weights go beside those of the validation."""
    original(reporter, writer, epoch, key1)
    curves = _training.get()
    if curves is None or key1 != "valid":
        return
    step = reporter.get_value("train", "total_count")
    for name, value in curves.scalars(reporter.get_epoch()).items():
        writer.add_scalar(name, value, step)
    for name, numbers, edges in curves.histograms():
        writer.add_histogram(name, numbers, step, bins=edges)


def _to_wandb(original: Callable, reporter: Reporter, *args: Any, **kwargs: Any) -> None:
    """Log the curves of an epoch; those of the weights are in the same step as ESPnet's."""
    curves = _training.get()
    if curves is not None:
        import wandb

        pictures = {
            name: wandb.Histogram(np_histogram=np.histogram(numbers, edges))
            for name, numbers, edges in curves.histograms()
        }
        wandb.log({**curves.scalars(reporter.get_epoch()), **pictures}, commit=False)
    original(reporter, *args, **kwargs)
