"""The files that ESPnet reads, models' and recordings: what is wrong with them is said in one line."""

import functools
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping

from espnet2.fileio.sound_scp import SoundScpReader

from espnet_rand.errors import MissingFileError, UserError
from espnet_rand.kaldi import DataError
from espnet_rand.toolkit import context
from espnet_rand.toolkit.hooks import packed
from espnet_rand.toolkit.pretrained.sources import check_size, read
from espnet_rand.toolkit.yaml_files import read_yaml


def register() -> None:
    """Let ESPnet's reader of recordings say which one it cannot read: soundfile does not."""
    original = SoundScpReader.__getitem__

    @functools.wraps(original)
    def read_sound(reader: SoundScpReader, key: str) -> Any:
        try:
            return original(reader, key)
        except (OSError, RuntimeError, ValueError) as e:  # soundfile's is a RuntimeError
            path = reader.data[key]
            paths = [path] if isinstance(path, str) else [*path]
            missing = [path for path in paths if not Path(path).exists()]
            what = f"there is no {missing[0]} (from {Path.cwd()})" if missing else f"{paths[0]} is not to be read: {e}"
            raise DataError(f"{key}: {what}. Fix: correct its line in wav.scp, or take it out") from e

    SoundScpReader.__getitem__ = read_sound


@contextmanager
def explaining(given: Mapping[str, Any]) -> Iterator[None]:
    """Inside the block ESPnet builds a model.

    Args:
        given: of `AbsTask.build_model_from_file`: config_file, model_file, device

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
    own = model_file is not None and not packed.left_to_others()
    if own:
        check_size(model_file)
    context.device(int(str(given.get("device", "cpu")).startswith("cuda")))
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as e:
        named = e.filename is not None and str(e.filename) in Path(config).read_text(encoding="utf-8")
        if not named or Path(e.filename).is_absolute():
            raise  # perhaps of others' code
        raise context.missing(f"{config}: no such file: {e.filename}") from e
    except Exception:
        read_yaml(config)
        if own:
            read(Path(model_file))
        raise
