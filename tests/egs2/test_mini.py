"""The whole mini recipe at its tiny size: every stage, by run.sh, from nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

RECIPE = Path(__file__).parents[2] / "egs2/mini/asr1"

pytest.importorskip("espeakng_loader")


def run_recipe(root, *options):
    environment = dict(os.environ, VIRTUAL_ENV=sys.prefix)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [
        RECIPE / "run.sh", "--corpus_size", "tiny", "--datadir", root / "data", "--expdir", root / "exp",
        *options,
    ]  # fmt: skip
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    done = run_recipe(root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done


def test_the_table_has_every_system(finished):
    root, done = finished
    table = (root / "exp/RESULTS.md").read_text()
    assert table in done.stdout
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    sizes = {row[0]: float(row[-1]) for row in rows}
    assert list(sizes) == ["float", "float_tuned", "round_w4_channel", "rand_w4_channel"]
    assert max(sizes["round_w4_channel"], sizes["rand_w4_channel"]) < sizes["float"] / 5
    for name in ("round_w4_channel", "rand_w4_channel"):
        assert sizes[name] == round((root / "exp" / name / "packed.safetensors").stat().st_size / 1000)


def test_the_report_and_the_options_lie_beside_the_model(finished):
    root, _ = finished
    config = yaml.safe_load((root / "exp/rand_w4_channel/config.yaml").read_text())
    assert config["quantizer"] == "rand" and config["quantizer_conf"]["bits"] == 4
    assert yaml.safe_load((root / "exp/rand_w4_channel/quantization.yaml").read_text())["quantized"]


def test_what_is_finished_is_not_repeated(finished):
    root, _ = finished
    checkpoint = root / "exp/rand_w4_channel/valid.loss.ave.pth"
    before = checkpoint.resolve().stat().st_mtime_ns
    again = run_recipe(root, "--stage", "4")
    assert again.returncode == 0, again.stderr
    assert checkpoint.resolve().stat().st_mtime_ns == before


def test_the_corpus_is_the_same_every_time(finished, tmp_path):
    root, _ = finished
    make = [sys.executable, "local/make_corpus.py", "--data_dir", tmp_path, "--size", "tiny"]
    subprocess.run(list(map(str, make)), cwd=RECIPE, check=True, capture_output=True)
    first, second = (
        {path.relative_to(top / "wav"): path.read_bytes() for path in (top / "wav").rglob("*.wav")}
        for top in (root / "data", tmp_path)
    )
    assert first and first == second


def test_a_missing_stage_is_named(tmp_path):
    done = run_recipe(tmp_path, "--stage", "4")
    assert done.returncode != 0
    assert "run stage 3 first" in done.stderr
