"""`espnet-rand --packed_backend`: how packed layers compute (espnet_rand.packing.kernels.choose)."""

import os

from espnet_rand.environment import PACKED_BACKEND, backend


def asked() -> str:
    """The backend that was asked for. Raises OptionError as `environment.backend` does."""
    return backend(PACKED_BACKEND, os.environ.get(PACKED_BACKEND, "auto"))
