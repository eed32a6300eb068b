"""The device of a model, and what is wrong where ESPnet cannot build it: its own errors name no option."""

import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional, Union

import torch

from espnet_rand.errors import MissingFileError, UserError, one_line
from espnet_rand.options import OptionError


def device(ngpu: int) -> str:
    """The device of a model, as `--ngpu` says.

    Raises:
        OptionError: there are not so many GPUs
    """
    if ngpu > (found := torch.cuda.device_count()):
        raise OptionError(f"--ngpu {ngpu}: torch finds {found or 'no'} GPU. Fix: --ngpu {found}")
    return "cuda" if ngpu else "cpu"


def missing_file(error: OSError, config: Union[str, Path], content: str) -> Optional[MissingFileError]:
    """Say which file is missing, if it is one that a configuration names; None: it is not, or nothing is missing.

    Args:
        error: raised while the configuration was used; sentencepiece's has the file's name in its message alone
        config: what the message calls the configuration
        content: its text
    """
    in_message = re.search(r'"(.*)": No such file', str(error))
    name = str(error.filename or (in_message[1] if in_message else ""))
    if "No such file" not in str(error) or not name or name not in content:
        return None
    if Path(name).is_absolute():
        return MissingFileError(f"{config}: no such file: {name}. Fix: put it there, or correct the configuration")
    return MissingFileError(
        f"{config}: no such file: {name}. Fix: start the command where the training was started: paths in its "
        "config.yaml are relative"
    )


@contextmanager
def checking_task(task: str, config: Union[str, Path]) -> Iterator[None]:
    """Let ESPnet build the model of a configuration inside the block, and say so if it may be of another task.

    Raises:
        OptionError: in place of what ESPnet raises then
    """
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as e:  # the files may hold anything
        raise OptionError(
            f"--task {task} cannot build the model of {config}: {one_line(e)}. Fix: --task, if it is of another"
        ) from e
