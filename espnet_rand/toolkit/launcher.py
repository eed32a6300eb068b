"""What `espnet-rand` was started with: its own options, which stand before the program's name."""

import os
from typing import Callable, Optional, TypeVar

from espnet_rand.environment import EVAL_BITS, PACKED_BACKEND, TRAILING_SILENCE, backend
from espnet_rand.options import OptionError

T = TypeVar("T")

#: Options that do nothing in a training, by their variables, with what to do there.
_NOT_IN_TRAINING = {
    EVAL_BITS: "leave it out; to validate at several precisions, list them in quantizer_conf: eval_bits",
    TRAILING_SILENCE: "give it behind the name of the training's program, or in its configuration",
}


def option(variable: str, parse: Callable[[str], T]) -> Optional[T]:
    """The option that a variable of the environment holds, parsed; None: it was not given."""
    text = os.environ.get(variable)
    return parse(text) if text else None


def packed_backend() -> str:
    """The backend that packed layers compute with (packing.kernels.choose). Raises OptionError: there is none such."""
    return backend(PACKED_BACKEND, os.environ.get(PACKED_BACKEND, "auto"))


def refuse_in_training() -> None:
    """Refuse options that do nothing in a training. Raises OptionError: `espnet-rand` was started with one."""
    for variable, remedy in _NOT_IN_TRAINING.items():
        if os.environ.get(variable):
            name = variable.removeprefix("ESPNET_RAND_").lower()
            raise OptionError(f"--{name}: espnet-rand was started with it for a training. Fix: {remedy}")
