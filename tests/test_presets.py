"""The presets of conf/ are valid, and their names say what is in them."""

from pathlib import Path

import pytest
import yaml

from espnet_rand import QuantizerConfig

PRESETS = sorted((Path(__file__).parents[1] / "conf").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_preset(path):
    options = QuantizerConfig.from_dict(yaml.safe_load(path.read_text())).to_dict()
    conf, words = options["quantizer_conf"], path.stem.split("_")
    bits = conf["bits"] if isinstance(conf["bits"], list) else [conf["bits"]]
    assert words[-1] == "w" + "".join(map(str, bits))
    quantizer = words[0] if words[0] in ("rand", "lsc", "clip") else "absmax"
    assert options["quantizer"] == quantizer
    straight_through = "ste" in words or words[0] in ("lsc", "clip")
    assert conf["estimator"] == ("ste" if straight_through else "pqn")
    assert ("group_size" in conf) == any(word.startswith("g") for word in words)
