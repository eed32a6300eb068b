"""`quantizer_conf: eval_bits`: the further precisions that a model is validated at while it is trained."""

from contextvars import ContextVar
from pathlib import Path
from typing import Any, Callable, Dict, Sequence, Union

import torch

from espnet_rand.batches import copied, keep_batch
from espnet_rand.context import setting
from espnet_rand.layers import EvalBits, evaluating_at
from espnet_rand.options import OptionError
from espnet_rand.toolkit.eval_bits import read_precision

# True while ESPnet collects the attention weights of one forward
_plotting: ContextVar[bool] = ContextVar("plotting", default=False)


def validate_at(model: torch.nn.Module, given: Sequence[Union[int, str]]) -> None:
    """Let a quantized model that is trained report its statistics at further precisions whenever it is validated.

    Its evaluation forwards without gradients compute once more at each, and add to the statistics those of it:
    loss_w4 at 4 bits, loss_NAME for the plan file NAME.yaml. ESPnet logs them, and takes them as criteria.

    Args:
        given: numbers of bits and plan files

    Raises:
        OptionError: as `read_precision` and `set_eval_bits` raise it; two precisions have one name
    """
    precisions: Dict[str, EvalBits] = {}
    for one in given:
        name = f"w{one}" if isinstance(one, int) else Path(one).stem
        if name in precisions:
            raise OptionError(f"eval_bits: {[*given]} is not allowed, two of its curves would be called loss_{name}")
        precisions[name] = read_precision(one)
        with evaluating_at(model, precisions[name]):
            pass  # it fits the model, or raises now
    if not precisions:
        return
    batch = keep_batch(model, _validating)

    def validate(model: torch.nn.Module, inputs: Any, output: Any) -> None:
        if not batch:
            return
        statistics = _statistics(output)
        whole = batch.pop()
        for name, bits in precisions.items():
            args, kwargs = copied(whole)
            with evaluating_at(model, bits):
                further = _statistics(model.forward(*args, **kwargs))
            statistics.update({f"{key}_{name}": value for key, value in further.items()})

    model.register_forward_hook(validate)


def _validating(model: torch.nn.Module) -> bool:
    """Whether a forward is one of a validation."""
    return not (model.training or torch.is_grad_enabled() or _plotting.get())


def _statistics(output: Any) -> Dict[str, Any]:
    """The statistics in what an ESPnet model returns: loss, statistics and weight, or a dict of them."""
    return output["stats"] if isinstance(output, dict) else output[1]


def plotting(original: Callable, *args: Any, **kwargs: Any) -> Any:
    """Run ESPnet's `calculate_all_attentions`, which is `original`, each of whose forwards runs once."""
    with setting(_plotting, True):
        return original(*args, **kwargs)
