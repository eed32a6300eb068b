"""`espnet-rand --packed_backend`: how packed layers compute (espnet_rand.packing.kernels.choose)."""

import os

from espnet_rand.packing import BACKENDS
from espnet_rand.quantizers import OptionError

#: Set by `espnet-rand --packed_backend`.
VARIABLE = "ESPNET_RAND_PACKED_BACKEND"


def asked() -> str:
    """The backend that was asked for.

    Raises:
        OptionError: it is not one of BACKENDS
    """
    name = os.environ.get(VARIABLE, "auto")
    if name not in BACKENDS:
        raise OptionError(f"{VARIABLE}: {name!r} is not allowed, it must be one of {', '.join(BACKENDS)}")
    return name
