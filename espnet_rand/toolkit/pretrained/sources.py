"""Reads what a user gives as a pretrained model: a checkpoint, an archive, a directory, a packed file, a model tag."""

import functools
import re
import shutil
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Union

import torch
from espnet2.main_funcs.pack_funcs import Archiver, unpack
from torch import Tensor

from espnet_rand import packing
from espnet_rand.errors import one_line
from espnet_rand.options import OptionError
from espnet_rand.toolkit.pretrained.fitting import PretrainedError
from espnet_rand.toolkit.yaml_files import read_yaml

try:
    from espnet2.torch_utils.safe_torch_load import safe_torch_load
except ImportError:  # ESPnet 202511
    safe_torch_load = functools.partial(torch.load, weights_only=True)

_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz")
_WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors")
_TAG = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
#: How many times its own size an archive may unpack to. Weights hardly compress: archives of real models stay below 3.
_MOST_TIMES = 100
#: The bytes that tell a file's kind.
_LEAST = 9
#: Where trainers keep the weights within a checkpoint: DeepSpeed, Lightning, ESPnet's checkpoint.pth.
_NESTED = ("module", "state_dict", "model")


class Pretrained(NamedTuple):
    """The files of a pretrained model.

    Attributes:
        model_file: a checkpoint or packed file
        train_config: the configuration that it was trained with; None where none comes with it
    """

    model_file: Path
    train_config: Optional[Path]


def is_checkpoint(given: Union[str, Path]) -> bool:
    """Whether ESPnet itself loads a file with torch: it is no archive, and no packed file."""
    path = Path(given)
    return path.is_file() and path.suffix not in _ARCHIVES and not packing.is_packed(path)


@contextmanager
def open_pretrained(given: Union[str, Path], language_model: bool = False) -> Iterator[Pretrained]:
    """Find the files of a pretrained model that a user gives; they are there within the block.

    Args:
        given: a .pth or packed file, an archive of espnet2.bin.pack or the directory of one, or a tag of the model zoo
        language_model: take the language model of an archive

    Raises:
        PretrainedError: it is none of these, is damaged, or cannot be downloaded
    """
    path = Path(given)
    if path.is_dir():
        yield _choose(given, _contents(path), language_model)
    elif path.is_file() and path.suffix in _ARCHIVES:
        with tempfile.TemporaryDirectory(prefix="espnet_rand.") as directory:
            try:
                _check_contents(path, directory)
                unpack(path, directory)
            except PretrainedError:
                raise
            except Exception as e:
                raise PretrainedError(f"{path}: no archive of espnet2.bin.pack, or damaged: {one_line(e)}") from None
            yield _choose(given, _contents(Path(directory)), language_model)
    elif path.is_file():
        beside = path.parent / "config.yaml"
        yield Pretrained(path, beside if beside.is_file() else None)
    elif _TAG.fullmatch(str(given)) and path.suffix not in (*_ARCHIVES, *_WEIGHTS):
        yield _choose(given, _download(str(given)), language_model)
    else:
        raise PretrainedError(f"no such file or directory: {given} (and a tag of the model zoo reads user/name)")


def _check_contents(path: Path, directory: Union[str, Path]) -> None:
    """Check what an archive says of its members, before it is unpacked into `directory`.

    Raises:
        PretrainedError: something would be written outside the directory (ESPnet 202511 does), or is a link; or it is
            too large, for the disk or for an archive of its size
    """
    own, free, total = path.stat().st_size, shutil.disk_usage(directory).free, 0
    with Archiver(path) as archive:
        for info in archive:
            name = archive.get_name_from_info(info)
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise PretrainedError(f"{path}: {name} would be written outside")
            if isinstance(info, tarfile.TarInfo) and not (info.isfile() or info.isdir()):
                raise PretrainedError(f"{path}: {name} is no file but a link or a device")
            # at once: to reach the next member of a tar file, this one is decompressed
            total += info.size if isinstance(info, tarfile.TarInfo) else info.file_size
            if total > _MOST_TIMES * own:
                raise PretrainedError(
                    f"{path}: {own:,} bytes that unpack to {total:,} or more, as those of no model do. "
                    "Fix: if you trust it, unpack it yourself, and give the directory"
                )
            if total > free:
                raise PretrainedError(
                    f"{path}: it unpacks to {total:,} bytes or more, and {directory} has room for {free:,}. "
                    "Fix: make room there, or unpack it elsewhere and give the directory"
                )


def read_shapes(checkpoint: Union[str, Path]) -> Dict[str, Tensor]:
    """Read the weights of a checkpoint without their numbers (meta device); none where `read_weights` raises."""
    try:
        return _weights(safe_torch_load(checkpoint, map_location="meta")) or {}
    except Exception:  # whatever is in the file: `read_weights` says what is wrong
        return {}


def check_size(model_file: Union[str, Path]) -> None:
    """Check the size of a model file. Raises PretrainedError: it is so small that it is no model."""
    if (size := Path(model_file).stat().st_size) < _LEAST:
        raise PretrainedError(f"{model_file}: a model has more than {size} bytes. Fix: copy or make it again")


def read_weights(model_file: Path) -> Dict[str, Tensor]:
    """Read the float weights of a checkpoint, or of a packed file, onto the CPU.

    Raises:
        PretrainedError: it holds something else, or more than tensors
        PackedFileError: a packed file is damaged
    """
    check_size(model_file)
    if packing.is_packed(model_file):
        return packing.read_packed(model_file).state_dict()
    try:
        state: Any = safe_torch_load(model_file, map_location="cpu")
    except OSError:
        raise
    except Exception as e:
        raise PretrainedError(
            f"{model_file}: no checkpoint of tensors alone, or damaged: {one_line(e)} "
            "(ESPnet's ESPNET_ALLOW_UNSAFE_TORCH_LOAD=1 unpickles files that you trust)"
        ) from None
    weights = _weights(state)
    if weights is None:
        raise PretrainedError(f"{model_file}: a file of torch, but no weights of a model (a state_dict)")
    return weights


def _weights(state: Any) -> Optional[Dict[str, Tensor]]:
    """The model's weights in a trainer's checkpoint; None: it is something else."""
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        return None
    return dict(state)


def _contents(root: Path) -> Dict[str, Path]:
    """Find the files of an unpacked archive, by the names of the options that take them."""
    try:
        meta = read_yaml(root / "meta.yaml")
        # a file from outside the folder that was packed is named by its whole path, and stored without the first slash
        paths = {name: Path(value.lstrip("/")) for name, value in {**meta["yaml_files"], **meta["files"]}.items()}
    except FileNotFoundError:
        raise PretrainedError(
            f"{root}: there is no meta.yaml of espnet2.bin.pack: give the model file itself"
        ) from None
    except (OptionError, KeyError, TypeError, AttributeError) as e:
        raise PretrainedError(f"{root}: meta.yaml is not one of espnet2.bin.pack: {one_line(e)}") from None
    for path in paths.values():
        if ".." in path.parts:
            raise PretrainedError(f"{root}: meta.yaml names a file elsewhere: {path}")
    return {name: root / path for name, path in paths.items()}


def _choose(given: Union[str, Path], files: Mapping[str, Path], language_model: bool) -> Pretrained:
    """Choose the model of an archive, or its language model."""
    names = [name for name in files if (name == "lm_file" if language_model else name.endswith("model_file"))]
    if len(names) != 1:
        wanted = "lm_file" if language_model else "one *model_file"
        raise PretrainedError(f"{given}: there must be {wanted} in it; there is {', '.join(files) or 'nothing'}")
    model_file = files[names[0]]
    if not model_file.is_file():
        raise PretrainedError(f"{given}: {names[0]} is not in it: {model_file}")
    return Pretrained(model_file, files.get(names[0].removesuffix("model_file").removesuffix("file") + "train_config"))


def _download(tag: str) -> Dict[str, Path]:
    """Download a model of the zoo; return its files as `_contents` does."""
    try:
        from espnet_model_zoo.downloader import ModelDownloader

        zoo = ModelDownloader()
        downloaded = Path(zoo.download(tag))
        # Hugging Face has folders, and an archive is unpacked once
        if downloaded.is_file() and not (downloaded.parent / "meta.yaml").exists():
            _check_contents(downloaded, downloaded.parent)
        files = zoo.download_and_unpack(tag)
    except ImportError:
        raise PretrainedError(f"{tag}: a tag of the model zoo needs `pip install espnet_model_zoo`") from None
    except PretrainedError:
        raise
    except Exception as e:  # whatever the network and the services raise
        raise PretrainedError(
            f"{tag}: there is no such file, and as a tag of the model zoo it cannot be downloaded: {one_line(e)}. "
            "Fix: download it where there is a network, and give the archive or directory"
        ) from None
    return {name: Path(path) for name, path in files.items()}
