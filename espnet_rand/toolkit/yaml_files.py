"""YAML files that a user gives."""

from pathlib import Path
from typing import Any, Union

import yaml

from espnet_rand.options import OptionError

#: What reading YAML raises: of what is none, of dates and the like that cannot be, of brackets in brackets in ...
ERRORS = (yaml.YAMLError, ValueError, RecursionError)


def read_yaml(path: Union[str, Path]) -> Any:
    """What a YAML file holds.

    Raises:
        OptionError: it is not YAML
        OSError: it cannot be read
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except ERRORS as e:
        raise OptionError(f"{path} is not YAML: {reason(e)}") from None


def reason(error: BaseException) -> str:
    """What one of ERRORS says, in one line."""
    return "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
