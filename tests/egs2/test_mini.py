"""The whole mini recipe at its tiny size: every stage, by run.sh, from nothing."""

import json
import subprocess
import sys

import pytest
import yaml

from espnet_rand.presets import presets
from tests.egs2.recipe import EGS2, run

RECIPE = EGS2 / "mini/asr1"
TEMPLATE = EGS2 / "TEMPLATE/asr1"

pytest.importorskip("espeakng_loader")


def run_recipe(root, *options):
    directories = ["--datadir", root / "data", "--expdir", root / "exp"]
    return run(RECIPE / "run.sh", "--corpus_size", "tiny", *directories, *options)


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


def test_calibration_and_teaching_are_systems(finished):
    root, _ = finished
    systems = """
        float train conf/train_asr.yaml -
        taught teach conf/train_asr.yaml float --quantizer_config rand_m3_ste_w4 --max_epoch 1
        calibrated calibrate - float --quantizer_config rand_m3_ste_w4 --quantizer_conf bits=3"""
    done = run_recipe(root, "--systems", systems, "--stage", "4", "--table", "calibrated")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (root / "exp/calibrated.md").read_text()
    assert "| calibrated | 3 bits, channel |" in table and "| taught     | 4 bits, channel |" in table
    options = yaml.safe_load((root / "exp/taught/config.yaml").read_text())
    assert options["teacher"] == str(root / "exp/float/valid.loss.ave.pth") == options["init_param"][0]
    assert "mean of 48 weights" in (root / "exp/calibrated/calibrate.log").read_text()

    decoded = root / "exp/taught/decode_test/split1/00/decode.log"
    before = decoded.stat().st_mtime_ns
    (root / "exp/calibrated/calibrate.done").unlink()
    done = run_recipe(root, "--systems", systems.replace("bits=3", "bits=2"), "--stage", "5", "--table", "calibrated")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (root / "exp/calibrated.md").read_text()
    assert "| calibrated | 2 bits, channel |" in table
    log = root / "exp/calibrated/decode_test/split1/00/decode.log"
    assert log.read_text().count("-m espnet2.bin.asr_inference --config conf") == 2, (
        "what is packed anew is decoded anew"
    )
    assert decoded.stat().st_mtime_ns == before


def test_weights_of_no_training_are_not_taken_in_silence(finished):
    root, _ = finished
    done = run_recipe(root, "--stage", "5", "--inference_model", "valid.acc.ave.pth")
    assert done.returncode != 0 and "float/valid.acc.ave.pth is not there: --inference_model must name" in done.stderr
    systems = """
        built dry conf/train_asr.yaml -
        rand train conf/train_asr.yaml built --quantizer rand"""
    done = run_recipe(root, "--systems", systems, "--stage", "4")
    assert done.returncode != 0 and "system rand: built has no weights of a training" in done.stderr


def test_plans_and_packing_at_other_precisions_are_systems(finished):
    """As curve.sh lists them."""
    root, _ = finished
    exp, system = root / "exp", "rand_w4_channel"
    systems = f"""
        float train conf/train_asr.yaml -
        plans plan - {system} --average_bits 3.5 --num_utterances 2 --sensitivity curvature
        mixed_b3p5 pack plans {system} --eval_bits {exp}/plans/average_3.5.yaml
        {system} train conf/train_asr.yaml float"""
    done = run_recipe(root, "--systems", systems, "--stage", "5", "--table", "curve")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (exp / "curve.md").read_text()
    bits = {cells[1].strip(): cells[2].strip() for line in table.splitlines()[2:] if (cells := line.split("|"))}
    assert list(bits) == ["float", "mixed_b3p5", system], "plans are no model"
    assert 3 < float(bits["mixed_b3p5"].split()[0]) <= 3.5 and bits[system] == "4 bits, channel"
    plot = [sys.executable, TEMPLATE / "pyscripts/plot_curve.py"]
    subprocess.run([*plot, "--table", exp / "curve.md", "--output", exp / "curve.png"], check=True)
    assert (exp / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_packed_models_are_shipped(finished):
    root, _ = finished
    systems = "{float: {train: conf/train_asr.yaml}, round_w4_channel: {round: float, options: --quantizer absmax}}"
    done = run_recipe(root, "--systems", systems, "--stage", "5", "--stop_stage", "5", "--ship_to", "espnet")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((root / "exp/round_w4_channel/espnet/report.json").read_text())
    assert report["agreement"] == 100 and report["figures"]["espnet"]["word_error_rate"] is not None
    assert not (root / "exp/float/espnet").exists()


def test_the_curve_has_every_method_and_budget(tmp_path):
    """The list of systems that asr.sh gets, for which a script stands in that writes its arguments."""
    (tmp_path / "asr.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > systems\n')
    (tmp_path / "asr.sh").chmod(0o755)
    for name in ("utils", "pyscripts"):
        (tmp_path / name).symlink_to(TEMPLATE / name)
    (tmp_path / "path.sh").write_text("")
    (tmp_path / "curve.sh").write_bytes((TEMPLATE / "curve.sh").read_bytes())
    options = ["--float", "train a.yaml", "--tune", "b.yaml float --max_epoch 3", "--seeds", "1 2", "--bits", "2 8"]
    options += [
        "--single_bits",
        "3",
        "--average_bits",
        "2.5",
        "--quantizer_args",
        "--quantizer_conf granularity=tensor",
    ]
    subprocess.run(["bash", "curve.sh", *options, "--nj", "7"], cwd=tmp_path, check=True)
    given = (tmp_path / "systems").read_text().splitlines()
    assert given[-2:] == ["--nj", "7"]
    lines = [line.split(maxsplit=3) for line in given if len(line.split()) > 3]
    systems = {name: (mode, config, rest) for name, mode, config, rest in lines}
    names = {name.rpartition(".")[0] for name in systems if name != "float"}
    methods = {"rand_w3", "ste_w3", "lsc_w3", "multi_w8", "multi_w2", "round_w2", "round_w8", "tuned"}
    assert names == methods | {"plans", "round_plans", "mixed_b2p5", "round_mixed_b2p5"}
    for mode, config, rest in systems.values():
        assert mode not in ("pack", "round") or config == "-" or config in systems
        assert mode == "plan" or "quantizer" not in rest or mode == "pack" or "granularity=tensor" in rest
    used = {rest.split("--quantizer_config ")[1].split()[0] for *_, rest in systems.values() if "_config" in rest}
    assert used == {"rand_m3_ste_w2348", "rand_m3_ste_w4", "ste_w4", "lsc_w4"} <= presets().keys()
    assert "--seed 2" in systems["lsc_w3.2"][2] and "bits=3" in systems["lsc_w3.2"][2]


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
