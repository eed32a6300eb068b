"""The presets of conf/ are valid, their names say what is in them, and a wheel brings them."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from espnet_rand import QuantizerConfig
from espnet_rand.presets import presets

ROOT = Path(__file__).parents[1]
# what the presets that are named for a runtime share a scale among
RUNTIMES = {"ggml": ("group", 32), "onnx": ("channel", None), "ctranslate2": ("channel", None)}
PRESETS = sorted((ROOT / "conf").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_preset(path):
    options = QuantizerConfig.from_dict(yaml.safe_load(path.read_text())).to_dict()
    conf, words = options["quantizer_conf"], path.stem.split("_")
    bits = conf["bits"] if isinstance(conf["bits"], list) else [conf["bits"]]
    assert words[-1] == "w" + "".join(map(str, bits))
    quantizer = words[0] if words[0] in ("rand", "lsc", "clip") else "absmax"
    assert options["quantizer"] == quantizer
    runtime = RUNTIMES.get(words[1])
    if runtime is not None:
        assert (conf["granularity"], conf.get("group_size"), conf["mode"]) == (*runtime, 3)
    straight_through = "ste" in words or words[0] in ("lsc", "clip") or runtime is not None
    assert conf["estimator"] == ("ste" if straight_through else "pqn")
    assert ("group_size" in conf) == any(word.startswith("g") for word in words)


def test_found_by_name():
    from espnet_rand.toolkit import options

    assert sorted(presets()) == sorted(path.stem for path in PRESETS)
    args = argparse.Namespace(quantizer=None, quantizer_conf={"bits": 3}, quantizer_config="rand_m3_ste_w4")
    given = dict(vars(args))
    config = options.resolve(args)
    conf = config.to_dict()["quantizer_conf"]
    assert (conf["mode"], conf["estimator"], conf["bits"]) == (3, "ste", 3)
    assert vars(args) == given, "asking changed what was asked about"
    assert options.write_resolved(args) == config and args.quantizer_config is None and args.quantizer_conf == conf


def test_installed_with_the_package(tmp_path):
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("espnet_rand", "conf"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(build, cwd=source, check=True)
    installed = tmp_path / "lib/espnet_rand/conf"
    assert {path.name: path.read_text() for path in installed.iterdir()} == {p.name: p.read_text() for p in PRESETS}
    assert not any(path.is_symlink() for path in (installed, *installed.iterdir()))
    assert (tmp_path / "lib/espnet_rand/startup/sitecustomize.py").is_file()
