"""The options that recipes share, with `echo` in place of the training."""

import re
import shutil
import subprocess

import pytest

from espnet_rand.presets import presets
from tests.egs2.recipe import EGS2, run

# the name of the tokens, options, where systems are in expdir
RECIPES = {
    "librispeech": ("bpe_unigram5000", ["--model", "transducer", "--presets", "rand_w4 lsc_w4"], "transducer"),
    "mini": ("char", [], ""),
    "mini_long": ("bpe_unigram30", ["--seeds", "1", "--methods", "dropout ste pqn rand_m1 rand_m2 rand_m3"], ""),
    "prompts": ("whisper_en", ["--seeds", "1", "--whisper_checkpoint", "whisper.pt"], ""),
}


def run_sh(recipe, cwd, *options):
    return run(EGS2 / recipe / "asr1/run.sh", *options, cwd=cwd)


def write_sizes(path, size="tiny", vocabulary=51864):
    """Write a checkpoint of openai-whisper that has the sizes of a model alone."""
    torch = pytest.importorskip("torch")
    state, layers = {"tiny": (384, 4), "base": (512, 6)}[size]
    of_audio = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": state, "n_audio_head": 6, "n_audio_layer": layers}
    of_text = {"n_text_ctx": 448, "n_text_state": state, "n_text_head": 6, "n_text_layer": layers}
    torch.save({"dims": {**of_audio, **of_text, "n_vocab": vocabulary}, "model_state_dict": {}}, path)


def trainings(recipe, tmp_path, *more):
    """What the recipe's trainings are called with."""
    if recipe == "prompts":
        pytest.importorskip("whisper")
        pytest.importorskip("av")
    tokens, options, below = RECIPES[recipe]
    stats = tmp_path / f"data/stats_{tokens}"
    stats.mkdir(parents=True)
    (stats / "all.done").touch()
    write_sizes(tmp_path / "whisper.pt")
    options = [*options, *more, "--datadir", "data", "--expdir", "exp", "--python", "echo", "--stage", "4"]
    done = run_sh(recipe, tmp_path, *options, "--stop_stage", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    return [log.read_text() for log in (tmp_path / "exp" / below).glob("*/train.log")]


def test_statistics_are_collected_in_no_more_parts_than_there_are_utterances(tmp_path):
    for name, count in (("train", 5), ("dev", 2)):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "text").write_text("".join(f"u{n} a\n" for n in range(count)))
    (tmp_path / "data/token_list/char").mkdir(parents=True)
    (tmp_path / "data/token_list/char/tokens.txt").write_text("a\n")
    options = ["--datadir", "data", "--python", "echo", "--stage", "3", "--stop_stage", "3", "--nj", "4"]
    done = run_sh("mini", tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = sorted((tmp_path / "data/stats_char").glob("split*/keys_*"))
    assert len(parts) == 4 and all(part.read_text() for part in parts)


@pytest.mark.parametrize(
    "recipe, options, reason",
    [
        ("mini", ["--asr_args", "--max_epoch", "1"], "1 is no option: quote a value that has spaces"),
        ("mini", ["--stage", "x"], "--stage must be a number, not x"),
        ("mini_long", ["--stop_stage", "six"], "--stop_stage must be a number, not six"),
        ("mini", ["--use_lm", "yes"], "--use_lm must be true or false, not yes"),
        ("mini", ["--curve", "1"], "--curve must be true or false, not 1"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(recipe, options, reason, tmp_path):
    done = run_sh(recipe, tmp_path, *options, "--datadir", "data", "--expdir", "exp", "--python", "echo")
    assert done.returncode == 1 and reason in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("active, first", [("", ".venv/bin"), ("conda", ".venv/bin"), ("mine", "mine/bin")])
def test_the_environment_is_the_active_one_if_it_has_the_plugin(active, first, tmp_path):
    folder = tmp_path / "egs2/TEMPLATE/asr1"
    folder.mkdir(parents=True)
    shutil.copy(EGS2 / "TEMPLATE/asr1/path.sh", folder)
    for name in (".venv", "mine"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin/espnet-rand").touch(0o755)
    environment = {"PATH": f"{tmp_path}/{active}/bin:/usr/bin:/bin", **({"CONDA_PREFIX": active} if active else {})}
    script = f". {folder}/path.sh; command -v espnet-rand"
    said = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True).stdout
    assert said == f"{tmp_path}/{first}/espnet-rand\n"


def quantizers(said):
    return {name for text in said for name in re.findall(r"--quantizer_config (\S+)", text)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_presets_are_known_and_directories_relative_to_where_one_is(recipe, tmp_path):
    said = trainings(recipe, tmp_path)
    used = quantizers(said)
    assert used and all(name in presets() or (EGS2 / recipe / "asr1" / name).is_file() for name in used)
    stats = tmp_path / f"data/stats_{RECIPES[recipe][0]}"
    assert all(f"{stats}/" in text and f"{tmp_path}/exp/" in text for text in said)


def test_files_of_the_recipes_conf_are_presets_of_prompts(tmp_path):
    said = trainings("prompts", tmp_path, "--presets", "rand_m3_ste_w4_column rand_m3_ste_w4", "--taught", "clip_w4")
    assert quantizers(said) == {"conf/rand_m3_ste_w4_column.yaml", "rand_m3_ste_w4", "clip_w4"}
    tuned = f"{tmp_path}/exp/tuned.1/valid.acc.best.pth"
    (taught,) = (text for text in said if "clip_w4" in text)
    assert f"--init_param {tuned} --teacher {tuned} " in taught
    assert not any("--teacher" in text for text in said if text != taught)


def test_a_checkpoint_says_which_whisper_it_is_and_each_language_has_a_test_set(tmp_path):
    pytest.importorskip("av")
    write_sizes(tmp_path / "base.pt", "base", 51865)
    (tmp_path / "data/stats_whisper_multilingual").mkdir(parents=True)
    (tmp_path / "data/stats_whisper_multilingual/all.done").touch()
    for language in ("en", "fr"):
        (tmp_path / f"data/test_{language}").mkdir()
        (tmp_path / f"data/test_{language}/wav.scp").write_text("a a.wav\n")
        (tmp_path / f"data/test_{language}/prompt").write_text(f"a <|{language}|> <|transcribe|>\n")
    options = ["--whisper_checkpoint", "base.pt", "--languages", "en fr", "--datadir", "data", "--expdir", "exp"]
    options += ["--python", "echo", "--untrained", "3 2", "--calibrate_args", "--quantizer_conf mode=2"]
    done = run_sh("prompts", tmp_path, *options, "--stage", "4", "--stop_stage", "4")
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "exp/untrained/train.log").read_text()
    assert "--token_type whisper_multilingual" in said and "--bpemodel whisper_multilingual" in said
    assert "--trailing_silence full" in said  # as OpenAI's model was trained
    assert "whisper_model=local" in said and f"{tmp_path}/data/train/prompt,prompt,text" in said

    (tmp_path / "exp/untrained/config.yaml").write_text("dry_run: true\n")
    names = ["calibrated_mode_2_w2", "calibrated_mode_2_w3", "rounded_w2", "rounded_w3"]
    for name in names:
        (tmp_path / "exp" / name).mkdir()
        (tmp_path / "exp" / name / "packed.safetensors").touch()
    run_sh("prompts", tmp_path, *options, "--stage", "5", "--stop_stage", "6")
    packed = {log.parent.name: log.read_text() for log in sorted(tmp_path.glob("exp/*/pack.log"))}
    assert list(packed) == names
    for name, text in packed.items():
        assert f"bits={name[-1]}" in text and ("mode=2" in text) == name.startswith("cal")
        assert ("rotation=hadamard" in text) == name.endswith("2")
    for name in ("untrained", *names):
        for language in ("en", "fr"):
            said = (tmp_path / "exp" / name / f"decode_test_{language}/split1/00/decode.log").read_text()
            assert f"--lang_prompt_token <|{language}|> <|transcribe|>" in said and "prompt,prompt" not in said


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--languages", "en fr"], "tiny.en knows English only. Fix: give --whisper_model base"),
        (["--long", "1m"], "--long must have seconds: 1m"),
        (["--long", "60", "--modes", "whole"], "--modes must be of windows and vad: Whisper hears 30 s: whole"),
        (["--whisper_model", "base"], "whisper.pt holds tiny.en, not base. Fix: leave out --whisper_model"),
    ],
)
def test_options_of_whisper_that_do_not_fit_are_refused(options, reason, tmp_path):
    pytest.importorskip("av")
    write_sizes(tmp_path / "whisper.pt")
    done = run_sh("prompts", tmp_path, "--whisper_checkpoint", "whisper.pt", *options)
    assert done.returncode == 1 and reason in done.stderr


@pytest.mark.parametrize("recipe", [*RECIPES, "librispeech_long"])
def test_help_has_the_options_of_the_recipe_and_of_the_stages(recipe):
    done = run_sh(recipe, EGS2, "--help")
    assert done.returncode == 0 and not done.stderr
    assert "--datadir DIR" in done.stdout and "stop_stage=" in done.stdout


def test_long_recordings_of_librispeech_are_decoded_with_the_models_of_its_recipe(tmp_path):
    (tmp_path / "data/long_dev_clean/30s").mkdir(parents=True)
    (tmp_path / "data/long_dev_clean/30s/wav.scp").write_text("a a.flac\n")
    options = ["--datadir", "data", "--expdir", "exp", "--stage", "9"]
    done = run_sh("librispeech_long", tmp_path, "--model", "transducer", *options)
    assert f"{tmp_path}/exp/transducer/float is not finished" in done.stderr
    for model, reason in (("whisper", "--model must be conformer"), ("streaming_conformer", "is not decoded here")):
        done = run_sh("librispeech_long", tmp_path, "--model", model, *options)
        assert done.returncode == 1 and reason in done.stderr
