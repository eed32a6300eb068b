"""What a call of ESPnet's is within: the device, the task that is said to be the model's."""

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

import torch

from espnet_rand.errors import MissingFileError, UserError, one_line
from espnet_rand.options import OptionError


def device(ngpu: int) -> str:
    """Of the model, as `--ngpu` says.

    Raises:
        OptionError: there are not so many GPUs
    """
    if ngpu > (found := torch.cuda.device_count()):
        raise OptionError(f"--ngpu {ngpu}: torch finds {found or 'no'} GPU. Fix: --ngpu {found}")
    return "cuda" if ngpu else "cpu"


def missing(what: object) -> MissingFileError:
    """That a file is not there which a configuration names: `what` says which."""
    return MissingFileError(
        f"{what}. Fix: start the command where the training was started: paths in its config.yaml are relative"
    )


@contextmanager
def building(task: str, config: Union[str, Path]) -> Iterator[None]:
    """Inside the block ESPnet builds the model of a configuration file, which may be of another task.

    Raises:
        OptionError: in place of what ESPnet raises then
        MissingFileError: a file is not there that it needs
    """
    try:
        yield
    except UserError:
        raise
    except OSError as e:
        if "No such file" not in str(e):
            raise
        raise missing(f"{config}: {e}") from e
    except Exception as e:  # of whatever is in the files
        raise OptionError(
            f"--task {task} cannot build the model of {config}: {one_line(e)}. Fix: --task, if it is of another"
        ) from e
