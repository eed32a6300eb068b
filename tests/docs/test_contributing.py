"""CONTRIBUTING.md: its examples run, its paths are there."""

import re

import pytest

from espnet_rand import quantizers
from espnet_rand.layers import layer
from espnet_rand.packing.kernels import KERNELS

from .pages import ROOT, blocks

PAGE = ROOT / "CONTRIBUTING.md"


@pytest.fixture
def registries():
    """They are as before afterwards."""
    all_of_them = [layer._REGISTRY, quantizers.SCALES, quantizers.GRIDS, KERNELS]
    before = [dict(registry) for registry in all_of_them]
    yield
    for registry, entries in zip(all_of_them, before):
        registry.clear()
        registry.update(entries)


@pytest.mark.usefixtures("registries")
def test_the_examples_run():
    codes = [block.text for block in blocks(PAGE) if block.language == "python"]
    assert len(codes) == 4
    names = {"__name__": "example"}
    for code in codes:
        exec(compile(code, str(PAGE), "exec"), names)


def test_the_paths_of_the_table_are_there():
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    paths = set(re.findall(r"`([\w./]+(?:/|\.py|\.md|\.sh)|egs2/\w+)`", "\n".join(table)))
    missing = [path for path in paths if not ((ROOT / path).exists() or (ROOT / "espnet_rand" / path).exists())]
    assert len(paths) > 20 and not [path for path in missing if path not in ("run.sh", "conf/", "local/")]
