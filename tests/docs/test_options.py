"""The table of docs/options.md has every option, with its default."""

import re
from pathlib import Path

from espnet_rand import QuantizerConfig
from espnet_rand.config import CHOICES

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_every_option_with_its_default():
    documented = {}
    for names, defaults in re.findall(r"^\| (`.+?`) \| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        for name, default in zip(re.findall(r"`(\w+)`", names), defaults.split(", ")):
            documented.setdefault(name, set()).add(default)
    chosen = [{axis: choice} for axis, choices in CHOICES.items() for choice in choices]
    known = {"quantizer"}
    for conf in ({}, {"bits": [4, 8]}, *chosen):
        options = QuantizerConfig(conf.pop("quantizer", "rand"), **conf).to_dict()["quantizer_conf"]
        known.update(options)
        for name, value in options.items():
            if name not in conf and isinstance(value, (bool, int, float, str)):
                assert str(value).lower() in documented.get(name, ()), name
    assert documented.keys() == known
