"""`--eval_bits`: the precision that a model is decoded and packed at; one number of bits, or a plan file."""

import argparse
import logging
import os
from typing import Optional, Union

import torch
from espnet2.lm.espnet_model import ESPnetLanguageModel
from espnet2.lm.espnet_model_multitask import ESPnetMultitaskLanguageModel

from espnet_rand.layers import EvalBits, set_eval_bits
from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit.options import read_mapping

#: Of models that ESPnet's commands build from files; set by `espnet-rand --eval_bits`.
VARIABLE = "ESPNET_RAND_EVAL_BITS"

#: Of all kinds.
LANGUAGE_MODELS = (ESPnetLanguageModel, ESPnetMultitaskLanguageModel)


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
