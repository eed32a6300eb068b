"""What a call of ESPnet's is within: the device, the task that is said to be the model's."""

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

import torch

from espnet_rand.errors import UserError, one_line
from espnet_rand.quantizers import OptionError


def device(ngpu: int) -> str:
    """Of the model, as `--ngpu` says.

    Raises:
        OptionError: there is no GPU
    """
    if ngpu and not torch.cuda.is_available():
        raise OptionError("--ngpu 1: torch finds no GPU. Mend: leave --ngpu out")
    return "cuda" if ngpu else "cpu"


@contextmanager
def building(task: str, config: Union[str, Path]) -> Iterator[None]:
    """Inside the block ESPnet builds the model of a configuration file, which may be of another task.

    Raises:
        OptionError: in place of what ESPnet raises then
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as e:  # of whatever is in the files
        raise OptionError(
            f"--task {task} cannot build the model of {config}: {one_line(e)}. Mend: --task, if it is of another"
        ) from e
