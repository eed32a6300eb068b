"""The files that ESPnet reads, of models and recordings: errors that name the file, in one line."""

import functools
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Mapping

from espnet2.fileio.sound_scp import SoundScpReader
from espnet2.train.dataset import AdapterForSoundScpReader

from espnet_rand.errors import MissingFileError, UserError
from espnet_rand.kaldi import DataError
from espnet_rand.toolkit import context
from espnet_rand.toolkit.loading import current
from espnet_rand.toolkit.pretrained.sources import check_size, read_weights
from espnet_rand.toolkit.yaml_files import read_yaml

#: ESPnet's readers of recordings. The second is around the first, and around those of all other types.
_READERS = (SoundScpReader, AdapterForSoundScpReader)
#: What libraries of sound raise of files. soundfile's error is a RuntimeError.
_UNREADABLE = (AssertionError, EOFError, OSError, RuntimeError, ValueError)


def register() -> None:
    """Let ESPnet's readers of recordings say which one they cannot read. The libraries below them do not."""
    for reader in _READERS:
        reader.__getitem__ = _naming(reader.__getitem__)


def _naming(original: Any) -> Any:
    @functools.wraps(original)
    def read_recording(reader: Any, key: str) -> Any:
        try:
            return original(reader, key)
        except _UNREADABLE as e:
            entries = _entries(reader, key)
            if missing := [entry for entry in entries if _is_missing(entry)]:
                what = f"there is no {missing[0]} (from {Path.cwd()})"
            else:
                what = f"{entries[0]} is not to be read: {(str(e) or type(e).__name__).splitlines()[0]}"
            raise DataError(f"{key}: {what}. Fix: correct its line in wav.scp, or take it out") from e

    return read_recording


def _entries(reader: Any, key: str) -> List[str]:
    """The files of a recording, as wav.scp names them: several where each has some of the channels."""
    loader = getattr(reader, "loader", reader)
    entry = (loader.data if hasattr(loader, "data") else loader._dict)[key]  # the latter: of Kaldi's archives
    return [entry] if isinstance(entry, str) else [*entry]


def _is_missing(entry: str) -> bool:
    """Whether the file of an entry of wav.scp is not there. A command and FILE:OFFSET of an archive are no paths."""
    archive = re.sub(r":\d+(\[.*\])?$", "", entry)
    return not (entry.endswith("|") or Path(entry).exists() or Path(archive).exists())


@contextmanager
def explaining(given: Mapping[str, Any]) -> Iterator[None]:
    """Let ESPnet build a model inside the block, and name the file or the option that is wrong.

    Args:
        given: arguments of `AbsTask.build_model_from_file`: config_file, model_file, device

    Raises:
        OptionError: there is no GPU; the configuration is not YAML
        MissingFileError: a file is not there, be it one that the configuration names
        PretrainedError, PackedFileError: the model file is damaged
    """
    model_file = given.get("model_file")
    config = given.get("config_file") or Path(model_file or "").parent / "config.yaml"
    for path, what in ((config, "a config.yaml"), (model_file, "a model file")):
        if path is not None and not Path(path).is_file():
            raise MissingFileError(f"no such file: {path} (from {Path.cwd()}). Fix: give the path of {what}")
    own = model_file is not None and not current().others_load
    if own:
        check_size(model_file)
    context.device(int(str(given.get("device", "cpu")).startswith("cuda")))
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        content = Path(config).read_text(encoding="utf-8", errors="replace")
        if isinstance(e, OSError) and (missing := context.missing_file(e, config, content)):
            raise missing from e
        read_yaml(config)
        if own:
            read_weights(Path(model_file))
        raise
