"""`--eval_bits`: the precision to decode and pack a model at, a number of bits or a plan file.

The list `quantizer_conf: eval_bits` is another thing: the precisions to validate at (hooks/precisions.py).
"""

import argparse
import logging
import os
from typing import Optional, Union

import torch
from espnet2.lm.espnet_model import ESPnetLanguageModel
from espnet2.lm.espnet_model_multitask import ESPnetMultitaskLanguageModel

from espnet_rand.environment import EVAL_BITS, bits_or_plan
from espnet_rand.layers import EvalBits, set_eval_bits
from espnet_rand.options import a_precision
from espnet_rand.toolkit import launcher
from espnet_rand.toolkit.options import read_mapping

#: ESPnet's language models, of all kinds.
LANGUAGE_MODELS = (ESPnetLanguageModel, ESPnetMultitaskLanguageModel)


def read_precision(given: Union[int, str]) -> EvalBits:
    """Read what a user gives as a precision: a number of bits, or a plan file: YAML, names or wildcards -> bits.

    Raises:
        OptionError: the number is not allowed; there is no such file, or it holds something else
    """
    given = bits_or_plan("eval_bits", given)
    if isinstance(given, int):
        return given
    plan = read_mapping("eval_bits", given, "names of weights: numbers of bits")
    for pattern, bits in plan.items():
        a_precision(f"eval_bits: {pattern}", bits)
    return plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--eval_bits` to the parser of a command of espnet_rand.bin."""
    parser.add_argument(
        "--eval_bits",
        metavar="BITS|PLAN",
        help="one number of bits, or a plan file (allocate_bits makes them); default: the highest that was trained",
    )


def command_precision(args: argparse.Namespace) -> Optional[EvalBits]:
    """The precision that `--eval_bits` of a command gives, if any. Raises OptionError as `read_precision` does."""
    return None if args.eval_bits is None else read_precision(args.eval_bits)


def launcher_precision() -> Optional[EvalBits]:
    """The precision that `espnet-rand --eval_bits` gives, if any. Raises OptionError as `read_precision` does."""
    return launcher.option(EVAL_BITS, read_precision)


def apply(model: torch.nn.Module) -> None:
    """Let a model that was built from files evaluate as `espnet-rand --eval_bits` asks for.

    Language models beside it stay as they are: a plan is about one model.
    """
    bits = launcher_precision()
    if bits is None:
        return
    if isinstance(model, LANGUAGE_MODELS):
        logging.warning("espnet_rand: --eval_bits is not for the language model, which stays as it is")
        return
    set_eval_bits(model, bits)
    logging.info(f"espnet_rand: evaluated at {os.environ[EVAL_BITS]} bits")
