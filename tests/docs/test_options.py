"""docs/options.md has every option, with its default, a section and an example that is taken."""

import re
from pathlib import Path

import yaml

from espnet_rand import QuantizerConfig
from espnet_rand.config import CHOICES

PAGE = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")
DEFAULTS = dict(re.findall(r"^\| \[`(\w+)`\]\(#\1\) \| (.+?) \|", PAGE, re.MULTILINE))


def test_every_option_with_its_default():
    chosen = [{axis: choice} for axis, choices in CHOICES.items() for choice in choices]
    known = {"quantizer"}
    for conf in ({}, {"bits": [4, 8]}, *chosen):
        options = QuantizerConfig(conf.pop("quantizer", "rand"), **conf).to_dict()["quantizer_conf"]
        known.update(options)
        for name, value in options.items():
            if name not in conf and isinstance(value, (bool, int, float, str)):
                assert str(value).lower() == DEFAULTS[name], name
    assert DEFAULTS.keys() == known


def test_every_option_has_an_example():
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
    assert sections.keys() == DEFAULTS.keys()
    for name, section in sections.items():
        examples = [
            yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        ]
        for example in examples:
            QuantizerConfig.from_dict(example)  # raises OptionError
        assert name in {**examples[0], **examples[0].get("quantizer_conf", {})}, name
