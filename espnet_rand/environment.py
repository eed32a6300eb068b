"""Variables of the environment, by which `espnet-rand` tells its processes options. This module imports nothing big."""

import math
from pathlib import Path
from typing import Any, Union

from espnet_rand.options import BITS_RANGE, OptionError, a_precision, one_of

#: `--import`: modules to import on registration, in every process; a comma between two.
IMPORT = "ESPNET_RAND_IMPORT"
#: `--eval_bits`: bits, or a plan, of models that ESPnet's commands build from files.
EVAL_BITS = "ESPNET_RAND_EVAL_BITS"
#: `--packed_backend`: how packed layers compute.
PACKED_BACKEND = "ESPNET_RAND_PACKED_BACKEND"
#: `--trailing_silence`: silence in decoding, in place of what the model was trained with.
TRAILING_SILENCE = "ESPNET_RAND_TRAILING_SILENCE"
#: All of them.
OPTIONS = (IMPORT, EVAL_BITS, PACKED_BACKEND, TRAILING_SILENCE)

#: Backends of packed layers (espnet_rand.packing.kernels): `auto` chooses one, `dequantize` computes in float.
BACKENDS = ("auto", "int8_dynamic", "int4_weight_only", "dequantize")
#: As much silence as there is room for.
FULL = "full"


def backend(name: str, given: str) -> str:
    """Check that a backend is one of BACKENDS. `name` is what messages call the option, here and below.

    Raises:
        OptionError: it is none of them
    """
    one_of(*BACKENDS)(name, given)
    return given


def seconds(name: str, given: Union[str, float]) -> float:
    """Read seconds of silence; infinity for `full`.

    Raises:
        OptionError: it is neither `full` nor a number of seconds
    """
    try:
        silence = math.inf if given == FULL else float(given)
    except (TypeError, ValueError, OverflowError):
        silence = math.nan
    if isinstance(given, bool) or not silence >= 0:
        raise OptionError(f"{name}: {given!r} is not allowed, it must be a number of seconds or {FULL}")
    return silence


def bits_or_plan(name: str, given: Any) -> Union[int, str]:
    """Read a number of bits, or check that the path of a plan file is there.

    Raises:
        OptionError: it is neither
    """
    if str(given).isdecimal():
        a_precision(name, int(given))
        return int(given)
    if not Path(given).is_file():
        raise OptionError(f"{name}: no such file: {given} (it must be a number {BITS_RANGE}, or a plan file)")
    return given
