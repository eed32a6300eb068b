"""The files that ESPnet builds a model from, to decode: what is wrong with them is said in one line."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping

from espnet_rand.errors import MissingFileError, UserError
from espnet_rand.toolkit import context
from espnet_rand.toolkit.hooks import packed
from espnet_rand.toolkit.pretrained.sources import check_size, read
from espnet_rand.toolkit.yaml_files import read_yaml


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
            raise MissingFileError(f"no such file: {path} (from {Path.cwd()}). Mend: give the path of {what}")
    own = model_file is not None and not packed.left_to_others()
    if own:
        check_size(model_file)
    context.device(int(str(given.get("device", "cpu")).startswith("cuda")))
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as e:
        raise context.missing(f"{config}: no such file: {e.filename or e}") from e
    except Exception:
        read_yaml(config)
        if own:
            read(Path(model_file))
        raise
