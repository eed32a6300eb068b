"""The packages of the extra `export`, which need not be there."""

import importlib
from types import ModuleType

from espnet_rand.errors import NotInstalledError


def installed(package: str) -> ModuleType:
    """A package that exports need.

    Raises:
        NotInstalledError: it is missing
    """
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise NotInstalledError(f"{package}: {e}. Fix: pip install 'espnet_rand[export]'") from None
