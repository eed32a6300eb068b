"""The presets that come with the package: YAML files with quantizer and quantizer_conf, for `--quantizer_config`."""

from pathlib import Path
from typing import Dict

_FOLDER = Path(__file__).resolve().parent / "conf"


def presets() -> Dict[str, Path]:
    """Their files by name: rand_m3_ste_w4, ..."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}
