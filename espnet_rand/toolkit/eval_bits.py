"""`--eval_bits`: the precision that a model is decoded, packed and validated at; one number of bits, or a plan file."""

import argparse
import functools
import logging
import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Union

import torch
from espnet2.lm.espnet_model import ESPnetLanguageModel
from espnet2.lm.espnet_model_multitask import ESPnetMultitaskLanguageModel

from espnet_rand.layers import EvalBits, evaluating_at, set_eval_bits
from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit.context import setting
from espnet_rand.toolkit.options import read_mapping

#: Of models that ESPnet's commands build from files; set by `espnet-rand --eval_bits`.
VARIABLE = "ESPNET_RAND_EVAL_BITS"

#: Of all kinds.
LANGUAGE_MODELS = (ESPnetLanguageModel, ESPnetMultitaskLanguageModel)
# while ESPnet collects attention weights, of one forward
_plotting: ContextVar[bool] = ContextVar("plotting", default=False)


def read(given: Union[int, str]) -> EvalBits:
    """What a user gives: a number of bits, or a plan file: YAML, names or wildcards -> bits.

    Raises:
        OptionError: there is no such file, or it holds something else
    """
    return (
        int(given) if str(given).isdecimal() else read_mapping("eval_bits", given, "names of weights: numbers of bits")
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--eval_bits` of the commands of espnet_rand.bin."""
    parser.add_argument(
        "--eval_bits",
        metavar="BITS|PLAN",
        help="one number of bits, or a plan file (allocate_bits makes them); default: the highest that was trained",
    )


def asked() -> Optional[EvalBits]:
    """What `espnet-rand --eval_bits` asks for, if anything. Raises OptionError as `read` does."""
    given = os.environ.get(VARIABLE)
    return read(given) if given else None


def apply(model: torch.nn.Module) -> None:
    """Let a model that was built from files evaluate as `espnet-rand --eval_bits` asks for.

    Language models beside it stay as they are: a plan is about one model.
    """
    bits = asked()
    if bits is None:
        return
    if isinstance(model, LANGUAGE_MODELS):
        logging.warning("espnet_rand: --eval_bits is not for the language model, which stays as it is")
        return
    set_eval_bits(model, bits)
    logging.info(f"espnet_rand: evaluated at {os.environ[VARIABLE]} bits")


def refuse_in_training() -> None:
    """Raises OptionError: `espnet-rand --eval_bits` does nothing in training."""
    if os.environ.get(VARIABLE):
        raise OptionError(
            "--eval_bits: espnet-rand was started with it for a training. Mend: leave it out; to validate at several "
            "precisions, list them in quantizer_conf: eval_bits"
        )


def validate_at(model: torch.nn.Module, given: Sequence[Union[int, str]]) -> None:
    """Let a quantized model that is trained report its statistics at further precisions whenever it is validated.

    Its evaluation forwards without gradients compute once more at each, and add to the statistics those of it:
    loss_w4 at 4 bits, loss_NAME for the plan file NAME.yaml. ESPnet logs them, and takes them as criteria.

    Args:
        given: numbers of bits and plan files

    Raises:
        OptionError: as `read` and `set_eval_bits`; two of one name
    """
    precisions: Dict[str, EvalBits] = {}
    for one in given:
        name = f"w{one}" if isinstance(one, int) else Path(one).stem
        if name in precisions:
            raise OptionError(f"eval_bits: {[*given]} is not allowed, two of its curves would be called loss_{name}")
        precisions[name] = read(one)
        with evaluating_at(model, precisions[name]):
            pass  # it fits the model, or raises now
    if precisions:
        model.register_forward_hook(functools.partial(_validate, precisions), with_kwargs=True)


def _validate(precisions: Dict[str, EvalBits], model: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    if model.training or torch.is_grad_enabled() or _plotting.get():
        return
    statistics = _statistics(output)
    for name, bits in precisions.items():
        with evaluating_at(model, bits):
            further = _statistics(model.forward(*args, **kwargs))
        statistics.update({f"{key}_{name}": value for key, value in further.items()})


def _statistics(output: Any) -> Dict[str, Any]:
    """Of what an ESPnet model returns: loss, statistics and weight, or a dict of them."""
    return output["stats"] if isinstance(output, dict) else output[1]


def plotting(original: Callable, *args: Any, **kwargs: Any) -> Any:
    """ESPnet's `calculate_all_attentions`, which is `original`: its forwards run once."""
    with setting(_plotting, True):
        return original(*args, **kwargs)
