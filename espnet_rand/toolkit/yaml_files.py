"""Reads YAML files that a user gives."""

from pathlib import Path
from typing import Any, Union

import yaml

from espnet_rand.options import OptionError

#: The errors of reading YAML: it is none, has a date that cannot be, or brackets in brackets in ...
ERRORS = (yaml.YAMLError, ValueError, RecursionError)


def read_yaml(path: Union[str, Path]) -> Any:
    """Read a YAML file.

    Raises:
        OptionError: it is not YAML
        OSError: it cannot be read
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except ERRORS as e:
        raise OptionError(f"{path} is not YAML: {reason(e)}") from None


def reason(error: BaseException) -> str:
    """The message of one of ERRORS, in one line."""
    return "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
