"""A folder that ESPnet decodes from: the model, its config.yaml, and the files that this names."""

import os
import shutil
from pathlib import Path
from typing import Any, Dict, Mapping

import yaml

from espnet_rand.export.examples import write_example
from espnet_rand.toolkit.yaml_files import read_yaml

# what a training reads, and decoding does not
_OF_TRAINING = ("path_and_name_and_type", "shape_file", "fold_length", "init_param", "teacher", "output_dir", "config")
# ends of names of options that give files; other options do if they have a "/"
_FILES = ("model", "list", "file")


def write_espnet(model_file: Path, config: Path, task: str, folder: Path) -> None:
    """Write a folder with model.*, config.yaml, the files that this names, and decode.py.

    Args:
        model_file: a checkpoint or a packed file; it is linked, or copied where that is not possible
        config: config.yaml of the training; paths in it are relative to the working directory
    """
    options = {key: value for key, value in read_yaml(config).items() if not key.endswith(_OF_TRAINING)}
    write_config(options, folder)
    model = folder / f"model{model_file.suffix}"
    try:
        os.link(model_file.resolve(), model)
    except OSError:
        shutil.copy(model_file, model)
    write_example("espnet", folder, TASK=task)


def write_config(options: Mapping[str, Any], folder: Path) -> Dict[str, str]:
    """Write config.yaml into a folder, and the files that it names into files/; it names them from the folder.

    Returns:
        the names of the files, by those that `options` have
    """
    copied: Dict[str, str] = {}
    with (folder / "config.yaml").open("w", encoding="utf-8") as file:
        yaml.safe_dump(_portable(options, folder, copied), file, allow_unicode=True, sort_keys=False)
    return copied


def _portable(value: Any, folder: Path, copied: Dict[str, str], key: str = "") -> Any:
    """The same option, `key`, with files copied into the folder, and named by their new names."""
    if isinstance(value, dict):
        return {name: _portable(one, folder, copied, name) for name, one in value.items()}
    if isinstance(value, list):
        return value if key.endswith("token_list") else [_portable(one, folder, copied) for one in value]
    named = isinstance(value, str) and ("/" in value or key.endswith(_FILES))
    if not named or not Path(value).is_file():
        return value
    if value not in copied:
        # below a folder: the model zoo takes words without a slash for no paths
        copied[value] = f"files/{len(copied)}_{Path(value).name}"
        (folder / "files").mkdir(exist_ok=True)
        shutil.copy(value, folder / copied[value])
    return copied[value]
