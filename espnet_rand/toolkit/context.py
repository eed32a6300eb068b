"""What a call of ESPnet's is within: context variables, and the task that is said to be the model's."""

from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Iterator, Union

from espnet_rand.errors import UserError, one_line
from espnet_rand.quantizers import OptionError


@contextmanager
def setting(variable: ContextVar, value: Any) -> Iterator[None]:
    """`variable` is `value` inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def building(task: str, config: Union[str, Path]) -> Iterator[None]:
    """Inside the block ESPnet builds the model of a configuration file, which may be of another task.

    Raises:
        OptionError: in place of what ESPnet raises then
    """
    try:
        yield
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise OptionError(
            f"--task {task} cannot build the model of {config}: {one_line(e)}. Mend: --task, if it is of another"
        ) from e
