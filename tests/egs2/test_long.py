"""The stages of recipes with long recordings, on a model that makes no mistakes; LibriSpeech-Long's layout."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import espnet_rand
from tests.egs2 import recipe
from tests.egs2.recipe import EGS2
from tests.longform import tones


def run(command):
    return recipe.run(*command, cwd=EGS2 / "mini_long/asr1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """exp/float.1, a trained system, and data/test, 12 melodies of 2 s."""
    espnet_rand.register()
    root = tmp_path_factory.mktemp("long")
    (root / "exp").mkdir()
    tones.train(root / "exp/float.1")[1].rename(root / "exp/float.1/valid.loss.ave.pth")
    (root / "exp/float.1/train.done").touch()
    (root / "data/test").mkdir(parents=True)
    rng = np.random.default_rng(2)
    scp, text = "", ""
    for n in range(12):
        names = tones.names(5, rng)
        soundfile.write(root / f"u{n:02d}.wav", tones.melody(names, rng)[0], tones.RATE)
        scp += f"u{n:02d} {root}/u{n:02d}.wav\n"
        text += f"u{n:02d} {' '.join(names)}\n"
    (root / "data/test/wav.scp").write_text(scp)
    (root / "data/test/text").write_text(text)
    (root / "decode.yaml").write_text("ctc_weight: 1.0\nbeam_size: 1\nbatch_size: 4\n")
    return root


def copy_system(trained, to):
    """The trained system, without what was decoded with it."""
    to.mkdir(parents=True)
    for name in ("config.yaml", "valid.loss.ave.pth", "train.done"):
        shutil.copy(trained / "exp/float.1" / name, to)


def test_long_sets_decoding_scores(trained):
    command = [
        EGS2 / "TEMPLATE/asr1/asr_long.sh", "--datadir", trained / "data", "--expdir", trained / "exp",
        "--systems", "float.1 train - - --seed 1", "--by", "all", "--pause", "0.1", "--durations", "6",
        "--modes", "windows whole", "--whole_durations", "6", "--window", "4", "--overlap", "1",
        "--inference_config", trained / "decode.yaml",
    ]  # fmt: skip
    assert "is not there: run stage 8 first" in run([*command, "--stage", "9"]).stderr
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    table = re.sub(" +", " ", (trained / "exp/RESULTS_long.md").read_text())
    assert "| float, windows | 0.00 [0.00-0.00] |" in table and "| float, whole | 0.00 [0.00-0.00] |" in table
    assert (trained / "exp/RESULTS_long.png").exists()
    text = trained / "exp/float.1/windows_long_test/6s/1best_recog/text"
    before = text.stat().st_mtime_ns
    again = run([*command, "--stop_stage", "9"])
    assert again.returncode == 0 and text.stat().st_mtime_ns == before
    # other durations are made beside those; what is missing is made by the stage that is named
    longer = [*command, "--durations", "6 12 utterance", "--whole_durations", "6 utterance"]
    assert "long_test/12s is not there: run stage 8 first" in run([*longer, "--stage", "9"]).stderr
    assert "long_test/12s/manifest.jsonl'. Fix: run stage 8 first" in run([*longer, "--stage", "10"]).stderr
    assert run([*longer, "--stop_stage", "8"]).returncode == 0
    assert len((trained / "data/long_test/12s/text").read_text().splitlines()) == 2
    assert "12s/1best_recog/text'. Fix: run stage 9 first" in run([*longer, "--stage", "10"]).stderr
    # what was removed, or is of another state of the data, is made again
    shutil.rmtree(trained / "data/long_test/12s")
    assert run([*longer, "--stop_stage", "8"]).returncode == 0 and (trained / "data/long_test/12s/text").exists()
    # one process decodes all lengths; what was decoded before is not decoded again
    journals = sorted((text.parent.parent / "windows").iterdir())
    before = [journal.stat().st_mtime_ns for journal in journals]
    copy_system(trained, trained / "exp/other.1")
    both = ["--systems", "float.1 train - -\nother.1 train - -", "--baseline"]
    assert "--baseline: none is not one of float, other" in run([*longer, *both, "none", "--stage", "10"]).stderr
    done = run([*longer, *both, "float", "--stage", "9"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert before == [journal.stat().st_mtime_ns for journal in journals]
    table = re.sub(" +", " ", (trained / "exp/RESULTS_long.md").read_text())
    assert "| WER % | long_test/utterance (2 s x 12) | long_test/6s (" in table
    assert "| other, whole | 0.00 [0.00-0.00] | 0.00 [0.00-0.00] | - |" in table
    assert "| other, windows | +0.00 [+0.00, +0.00] | +0.00 [+0.00, +0.00] | +0.00 |" in table


def test_decodings_of_other_recordings_are_not_scored(trained, tmp_path):
    shutil.copytree(trained / "data/test", tmp_path / "data/test")
    copy_system(trained, tmp_path / "exp/float.1")
    command = [
        EGS2 / "TEMPLATE/asr1/asr_long.sh", "--datadir", tmp_path / "data", "--expdir", tmp_path / "exp",
        "--systems", "float.1 train - -", "--by", "all", "--pause", "0.1", "--durations", "12", "--modes", "windows",
        "--window", "4", "--overlap", "1", "--inference_config", trained / "decode.yaml",
    ]  # fmt: skip
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "data/long_test/join_12.done").unlink()
    done = run([*command, "--pause", "0.2"])
    assert done.returncode == 1 and "was begun with other recording. Fix: choose another" in done.stderr
    shutil.rmtree(tmp_path / "exp/float.1/windows_long_test/12s")  # its mark is beside it
    done = run([*command, "--pause", "0.2"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands_in_wav_scp(trained, tmp_path):
    shutil.copytree(trained / "data/test", tmp_path / "test")
    scp = (tmp_path / "test/wav.scp").read_text()
    (tmp_path / "test/wav.scp").write_text(re.sub(" (.*)", r" cat \1 |", scp))
    command = [
        EGS2 / "TEMPLATE/asr1/asr_long.sh", "--datadir", tmp_path, "--expdir", trained / "exp", "--stop_stage", "8",
        "--systems", "float.1 train - -", "--by", "all", "--durations", "whole",
    ]  # fmt: skip
    assert "Fix: --pipes" in run(command).stderr
    done = run([*command, "--pipes", "true"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "long_test/whole/text").exists()


def test_options_of_mini_long_reach_decoding(trained, tmp_path):
    shutil.copytree(trained / "data/test", tmp_path / "data/test")
    for system in ("float.2", "float_tuned.2"):
        (tmp_path / "exp" / system).mkdir(parents=True)
        (tmp_path / "exp" / system / "train.done").touch()
        (tmp_path / "exp" / system / "other.pth").touch()
    options = [
        "--corpus_size", "tiny", "--seeds", "2", "--durations", "6", "--methods", "", "--modes", "windows",
        "--window", "4", "--overlap", "1", "--inference_model", "other.pth", "--python", "echo", "--ngpu", "1",
        "--datadir", tmp_path / "data", "--expdir", tmp_path / "exp", "--stage", "8", "--stop_stage", "9",
    ]  # fmt: skip
    done = run([EGS2 / "mini_long/asr1/run.sh", *options])
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (tmp_path / "exp/float.2").glob("*/decode*.log")
    assert log.relative_to(tmp_path) == Path("exp/float.2/windows_long_test/decode_6s.log")
    said = log.read_text().splitlines()[-1]  # by echo
    for option in (
        "--ngpu 1",
        "--mode windows --window 4 --overlap 1",
        "exp/float.2/other.pth",
        "exp/float.2/windows_long_test/6s",
    ):
        assert option in said


def test_the_decoder_chooses_the_windows_that_are_not_given(trained, tmp_path):
    shutil.copytree(trained / "data/test", tmp_path / "data/long_test/6s")
    copy_system(trained, tmp_path / "exp/float.1")
    command = [
        EGS2 / "TEMPLATE/asr1/asr_long.sh", "--datadir", tmp_path / "data", "--expdir", tmp_path / "exp",
        "--systems", "float.1: {train: train.yaml}\nplans: {plan: float.1}", "--durations", "6", "--modes", "windows",
        "--stage", "9", "--stop_stage", "9", "--python", "echo",
    ]  # fmt: skip
    log = tmp_path / "exp/float.1/windows_long_test/decode_6s.log"
    for given in ([], ["--window", "4"]):
        done = run([*command, *given])
        assert done.returncode == 0, done.stdout + done.stderr
        said = log.read_text().splitlines()[-1]
        assert said.partition(" --data_path")[0].endswith(" ".join(["--mode windows", *given]))
        log.with_suffix(".done").unlink()


def test_the_float_weights_of_a_quantized_system(trained):
    exp = trained / "exp"
    config = yaml.safe_load((exp / "float.1/config.yaml").read_text())
    added = ("quantizer", "quantizer_conf", "quantizer_config", "teacher", "teacher_conf")
    config = {name: value for name, value in config.items() if name not in added}
    (exp / "pqn.1").mkdir()
    quantized = {**config, "quantizer": "absmax", "quantizer_conf": {"bits": 4}, "teacher": "float.pth"}
    (exp / "pqn.1/config.yaml").write_text(yaml.safe_dump(quantized))
    (exp / "pqn.1/valid.loss.ave.pth").write_bytes(b"weights")
    done = run(
        [sys.executable, EGS2 / "TEMPLATE/asr1/pyscripts/without_quantizer.py", "--trained", exp / "pqn.1"]
        + ["--model", "valid.loss.ave.pth", "--output_dir", exp / "noise.1"]
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((exp / "noise.1/config.yaml").read_text()) == config
    assert (exp / "noise.1/valid.loss.ave.pth").read_bytes() == b"weights"


def test_wrong_methods_and_models_are_named():
    for option, value, reason in (
        ("--methods", "pqn other", "there is no other"),
        ("--methods", "noise", "needs pqn"),
        ("--model", "rnn", "--model must be ctc, transducer or attention: rnn"),
    ):
        done = run([EGS2 / "mini_long/asr1/run.sh", option, value])
        assert done.returncode == 1 and reason in done.stderr


def test_librispeech_long_as_it_is_published(tmp_path):
    for part in ("dev-clean", "dev-other", "test-clean", "test-other"):
        chapter = tmp_path / part / "84/121123"
        chapter.mkdir(parents=True)
        for n in range(2):
            soundfile.write(chapter / f"121123_{n:04d}.flac", np.zeros(16000 * (n + 1)), 16000)
            (chapter / f"121123_{n:04d}.txt").write_text("Go. Do you hear, it's I")
    script = EGS2 / "librispeech_long/asr1/local/prepare_long.py"
    command = [sys.executable, script, "--librispeech_long", tmp_path, "--output_dir", tmp_path / "data"]
    assert run(command).returncode == 0
    data = tmp_path / "data/librispeech_long_dev_other"
    assert (data / "text").read_text().splitlines()[0] == "84-121123_0000 GO DO YOU HEAR IT'S I"
    assert '"seconds": 2.0' in (data / "manifest.jsonl").read_text().splitlines()[1]
    (tmp_path / "test-other/84/121123/121123_0001.txt").unlink()
    assert "121123_0001.txt is not there" in run(command).stderr
