"""The presets of the package: YAML files with quantizer and quantizer_conf, for `--quantizer_config`."""

from pathlib import Path
from typing import Dict

_FOLDER = Path(__file__).resolve().parent / "conf"


def presets() -> Dict[str, Path]:
    """The files of the presets by name: rand_m3_ste_w4, ..."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}
