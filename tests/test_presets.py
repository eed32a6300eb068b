"""The presets of conf/ are valid, their names say what is in them, and a wheel brings them."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from espnet_rand import OptionError, QuantizerConfig
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
    assert conf["grid"] == ("asymmetric" if "asymmetric" in words else "symmetric")


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_a_preset_names_every_option(path):
    """So that none changes where a default does."""
    given = yaml.safe_load(path.read_text())
    conf = QuantizerConfig.from_dict(given).to_dict()["quantizer_conf"]
    of_the_model = ("include", "exclude", "depthwise", "weight_norm", "eval_bits", "histograms", "overrides")
    assert given["quantizer_conf"] == {name: value for name, value in conf.items() if name not in of_the_model}


def test_the_papers_setting():
    """Mode 2 with noise, as it was resolved when it was the default."""
    options = yaml.safe_load((ROOT / "conf/rand_w4.yaml").read_text())
    scale = {"mode": 2, "p": 8, "k": 2, "c": "ties", "init": "norm"}
    noise = {"estimator": "pqn", "noise": "uniform"}
    others = {"bits": 4, "granularity": "channel", "grid": "symmetric", "rotation": "none", "start_step": 0}
    others["scale_dtype"] = "float32"
    assert options == {"quantizer": "rand", "quantizer_conf": {**scale, **noise, **others}}


def test_another_choice_over_a_preset_drops_what_it_says_of_the_first():
    from espnet_rand.toolkit import options

    def resolved(preset, quantizer=None, **conf):
        args = argparse.Namespace(quantizer=quantizer, quantizer_conf=conf, quantizer_config=preset)
        return options.resolve(args)

    assert resolved("rand_w4", estimator="ste") == resolved("rand_ste_w4")
    assert resolved("rand_m3_ste_g32_w4", granularity="channel") == resolved("rand_m3_ste_w4")
    assert resolved("rand_m3_ste_w2348", bits=4) == resolved("rand_m3_ste_w4")
    assert resolved("ste_w4", "clip") == resolved("clip_w4")
    with pytest.raises(OptionError, match="noise: 'normal' is given"):
        resolved("rand_w4", estimator="ste", noise="normal")


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
