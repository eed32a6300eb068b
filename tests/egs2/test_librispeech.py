"""The LibriSpeech recipe on a generated corpus: data stage, downloads, models, and all of it at the tiniest size."""

import argparse
import shutil
from pathlib import Path

import pytest

from tests.egs2.librispeech_corpus import Server, make_archives, make_corpus
from tests.egs2.recipe import EGS2, run

RECIPE = EGS2 / "librispeech/asr1"


def run_in_recipe(*command):
    return run(*command, cwd=RECIPE)


def make_data(datadir, *options):
    return run_in_recipe("local/data.sh", "--datadir", datadir, *options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def archives(corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("openslr")
    make_archives(corpus, root)
    return root


@pytest.fixture
def server(archives):
    with Server(archives) as server:
        yield server


def columns(path):
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def test_data_directories(corpus, tmp_path):
    done = make_data(tmp_path, "--librispeech", corpus)
    assert done.returncode == 0, done.stderr
    names = {"train_960", "dev", "dev_clean", "dev_other", "test_clean", "test_other"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names:
        files = {file: columns(tmp_path / name / file) for file in ("wav.scp", "text", "utt2spk", "spk2utt")}
        keys = list(files["text"])
        assert keys == sorted(keys) == list(files["wav.scp"]) == list(files["utt2spk"])
        speakers = files["utt2spk"].values()
        assert list(speakers) == sorted(speakers) and list(files["spk2utt"]) == sorted(set(speakers))
        assert " ".join(files["spk2utt"].values()).split() == keys
        assert all(Path(path).is_file() and key in path for key, path in files["wav.scp"].items())
    train = columns(tmp_path / "train_960/utt2spk")
    assert len(train) == 20 and train["103-1241-0003"] == "103" and train["1034-121119-0000"] == "1034"
    assert len(columns(tmp_path / "dev/text")) == 8
    spoken = (corpus / "dev-clean/84/121123/84-121123.trans.txt").read_text().splitlines()
    assert spoken == (tmp_path / "dev_clean/text").read_text().splitlines()


def test_the_100_hours_need_fewer_parts(corpus, tmp_path):
    part_of_it = tmp_path / "LibriSpeech"
    shutil.copytree(corpus, part_of_it, ignore=shutil.ignore_patterns("train-clean-360", "train-other-500"))
    done = make_data(tmp_path / "data", "--librispeech", part_of_it, "--train_set", "train_clean_100")
    assert done.returncode == 0, done.stderr
    assert len(columns(tmp_path / "data/train_clean_100/text")) == 12
    done = make_data(tmp_path / "data_960", "--librispeech", part_of_it)
    assert done.returncode == 1 and "train-clean-360 has no <speaker>" in done.stderr
    assert not (tmp_path / "data_960").exists()


@pytest.mark.parametrize(
    "lost, message", [("61-70968-0002.flac", "no recording"), ("61-70968.trans.txt", "test-clean")]
)
def test_a_copy_that_is_not_whole_is_an_error(corpus, tmp_path, lost, message):
    broken = tmp_path / "LibriSpeech"
    shutil.copytree(corpus, broken)
    (broken / "test-clean/61/70968" / lost).unlink()
    done = make_data(tmp_path / "data", "--librispeech", broken)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert message in done.stderr and "Fix: " in done.stderr
    assert not (tmp_path / "data").exists()


def download_options(server, folder):
    return ["--base_url", server.url, "--downloads", folder, "--train_set", "train_clean_100"]


def test_a_download_goes_on_after_interruptions(server, tmp_path):
    """Two within a run, and a run that was killed with a part on disk; the second time nothing is asked for."""
    train, dev = "12/train-clean-100.tar.gz", "12/dev-clean.tar.gz"
    server.break_off = {train: 2}
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / "dev-clean.tar.gz.part").write_bytes((server.root / dev).read_bytes()[:1000])
    (downloads / "LibriSpeech/.test-clean.unfinished").mkdir(parents=True)
    done = make_data(tmp_path / "data", *download_options(server, downloads), "--lm_text", "true")
    assert done.returncode == 0, done.stderr
    size = (server.root / train).stat().st_size
    starts = [start for path, start in server.requests if path == train]
    assert starts == [0, size // 2, size // 2 + (size - size // 2) // 2]
    assert (dev, 1000) in server.requests
    parts = {"train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other"}
    assert {path.name for path in (downloads / "LibriSpeech").iterdir()} == parts | {"SPEAKERS.TXT", "CHAPTERS.TXT"}
    assert len(columns(tmp_path / "data/train_clean_100/text")) == 12
    assert len(columns(tmp_path / "data/lm/text")) == 20
    server.requests.clear()
    done = make_data(tmp_path / "data", *download_options(server, downloads))
    assert done.returncode == 0 and not server.requests


def test_a_server_without_ranges(server, tmp_path):
    server.ranges = False
    server.break_off = {"12/dev-other.tar.gz": 1}
    done = make_data(tmp_path / "data", *download_options(server, tmp_path / "downloads"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("archive", ["12/test-other.tar.gz", "11/librispeech-lm-norm.txt.gz"])
def test_a_damaged_archive_is_not_unpacked(server, tmp_path, archive):
    server.damage = {archive: 1}
    options = [*download_options(server, tmp_path / "downloads"), "--lm_text", "true"]
    done = make_data(tmp_path / "data", *options)
    name = archive.partition("/")[2]
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"{name}.part came damaged" in done.stderr and "Fix: run again" in done.stderr
    assert not list((tmp_path / "downloads").glob(f"{name}*")) and not (tmp_path / "data").exists()
    assert not (tmp_path / "downloads/LibriSpeech/test-other").exists() or archive.startswith("11")
    done = make_data(tmp_path / "data", *options)
    assert done.returncode == 0, done.stderr


def test_what_the_server_does_not_have_is_named(server, tmp_path):
    server.url += "/nowhere"
    done = make_data(tmp_path / "data", *download_options(server, tmp_path / "downloads"))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "/nowhere/12/md5sum.txt: 404" in done.stderr and "--base_url" in done.stderr


# -- models, at the tiniest size

CONF = RECIPE / "conf"
PRESETS = RECIPE.parents[2] / "conf"
TRAINING = (
    "--use_amp false --max_epoch 1 --accum_grad 1 --num_workers 0 --scheduler_conf warmup_steps=1 "
    "--keep_nbest_models 1 --use_matplotlib false --use_tensorboard false"
)
ENCODER = (
    "--encoder_conf output_size=16 --encoder_conf attention_heads=2 --encoder_conf linear_units=16 "
    "--encoder_conf num_blocks=1 --frontend_conf n_mels=16"
)
DECODER = "--decoder_conf attention_heads=2 --decoder_conf linear_units=16 --decoder_conf num_blocks=1"
MODELS = {
    "conformer": DECODER,
    "e_branchformer": f"{DECODER} --encoder_conf cgmlp_linear_units=16 --encoder_conf layer_drop_rate=0",
    "transducer": "--decoder_conf hidden_size=16 --joint_net_conf joint_space_size=16",
    "streaming_conformer": DECODER,
    "transformer": DECODER,
}
LM = (
    "--use_amp false --max_epoch 1 --batch_bins 2000 --accum_grad 1 --use_matplotlib false --use_tensorboard false "
    "--lm_conf embed_unit=8 --lm_conf att_unit=8 --lm_conf head=2 --lm_conf unit=8 --lm_conf layer=1"
)
TOKENS = 28


def tiny(model):
    return f"{TRAINING} {ENCODER} {MODELS[model]} --batch_bins 100000"


@pytest.fixture(scope="module")
def recipe(corpus, archives, tmp_path_factory):
    """Runs run.sh with a model, float and RAND from scratch, in one directory."""
    root = tmp_path_factory.mktemp("recipe")
    (root / "downloads").mkdir()
    shutil.copy(archives / "11/librispeech-lm-norm.txt.gz", root / "downloads")

    def run(model, *options):
        config = f"conf/train_asr_{model}.yaml"
        systems = f"float train {config} -\nrand train {config} - --quantizer_config ../../../conf/rand_m3_ste_w4.yaml"
        return run_in_recipe(
            "./run.sh", "--model", model, "--librispeech", corpus, "--downloads", root / "downloads",
            "--datadir", root / "data", "--expdir", root / "exp", "--train_set", "train_clean_100",
            "--nbpe", TOKENS, "--systems", systems, "--asr_args", tiny(model), "--lm_args", LM,
            "--test_sets", "test_clean", "--inference_args", "--beam_size 2 --maxlenratio -3", *options,
        )  # fmt: skip

    run.root = root
    return run


def table(path):
    rows = (line.strip("| \n").split("|") for line in path.read_text().splitlines()[2:])
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


@pytest.fixture(scope="module")
def conformer(recipe):
    """The whole recipe, with a language model."""
    done = recipe("conformer", "--use_lm", "true")
    assert done.returncode == 0, done.stdout + done.stderr
    return recipe.root


def test_the_whole_recipe_with_a_language_model(conformer):
    tokens = (conformer / f"data/token_list/bpe_unigram{TOKENS}/tokens.txt").read_text().splitlines()
    assert len(tokens) == TOKENS and tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>"
    assert not {"<s>", "</s>"} & set(tokens)
    rows = table(conformer / "exp/conformer/RESULTS_lm.md")
    assert list(rows) == ["float", "rand"]
    assert [row[:3] for row in rows.values()] == [["float", "test_clean", "4"], ["4 bits, channel", "test_clean", "4"]]
    for log in (conformer / "exp/conformer").glob("*/decode_test_clean_lm/split1/*/decode.log"):
        assert "--lm_file" in log.read_text()


def test_recordings_are_read_at_three_speeds_in_training(conformer):
    import numpy as np
    import yaml
    from espnet2.tasks.asr import ASRTask

    args = argparse.Namespace(**yaml.safe_load((conformer / "exp/conformer/rand/config.yaml").read_text()))
    lengths = {}
    for training in (True, False):
        preprocess = ASRTask.build_preprocess_fn(args, training)
        data = ({"speech": np.ones(16000, np.float32), "text": "THE"} for _ in range(50))
        lengths[training] = {len(preprocess("u", one)["speech"]) for one in data}
    assert lengths == {True: {17778, 16000, 14546}, False: {16000}}


# Instead of `espnet-rand -m espnet2.bin.asr_inference`: writes the references.
DECODER_STAND_IN = """#!/usr/bin/env bash
while [ $# -gt 0 ]; do
    case $1 in
        --key_file) keys=$2 ;;
        --output_dir) output=$2 ;;
        --data_path_and_name_and_type) data=${2%/wav.scp*} ;;
    esac
    shift
done
mkdir -p "${output}/1best_recog"
cut -d ' ' -f 1 "${keys}" | grep -F -f - "${data}/text" > "${output}/1best_recog/text"
"""


def test_decoding_in_parts(conformer, recipe, tmp_path):
    """Of four utterances, in three and in six parts."""
    stand_in = tmp_path / "decode"
    stand_in.write_text(DECODER_STAND_IN)
    stand_in.chmod(0o755)
    for parts in (3, 6):
        done = recipe("conformer", "--stage", "6", "--inference_nj", parts, "--python", stand_in)
        assert done.returncode == 0, done.stdout + done.stderr
        decoded = conformer / "exp/conformer/float/decode_test_clean"
        assert len(list(decoded.glob(f"split{parts}/*/decode.done"))) == min(parts, 4)
        assert table(conformer / "exp/conformer/RESULTS.md")["float"][2:4] == ["4", "0.00"]


def test_a_transducer_through_the_whole_recipe(conformer, recipe):
    """Data, tokens and statistics are those of the Conformer."""
    done = recipe("transducer")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(table(conformer / "exp/transducer/RESULTS.md")) == ["float", "rand"]
    assert "torchaudio's rnnt_loss" in (conformer / "exp/transducer/rand/train.log").read_text()
    assert "joint_network" in (conformer / "exp/transducer/rand/quantization.yaml").read_text()


@pytest.mark.parametrize(
    "options", [[], ["--quantizer_config", PRESETS / "rand_m3_ste_w4.yaml"]], ids=["float", "rand"]
)
@pytest.mark.parametrize("model", ["e_branchformer", "streaming_conformer", "transformer"])
def test_the_other_models_train_and_decode(conformer, train, tmp_path, model, options):
    data, tokens = conformer / "data", conformer / f"data/token_list/bpe_unigram{TOKENS}"
    stats = data / f"stats_bpe_unigram{TOKENS}"
    inputs = ["--token_type", "bpe", "--token_list", tokens / "tokens.txt", "--bpemodel", tokens / "bpe.model"]
    for split, name in (("train", "train_clean_100"), ("valid", "dev")):
        for file, key, kind in (("wav.scp", "speech", "sound"), ("text", "text", "text")):
            inputs += [f"--{split}_data_path_and_name_and_type", f"{data / name / file},{key},{kind}"]
            inputs += [f"--{split}_shape_file", stats / split / f"{key}_shape"]
    config = ["--config", CONF / f"train_asr_{model}.yaml", *tiny(model).split()]
    train(*config, *inputs, "--output_dir", tmp_path, *options)
    assert (tmp_path / "quantization.yaml").exists() == bool(options)

    from espnet2.bin import asr_inference, asr_inference_streaming

    streaming = model == "streaming_conformer"
    program = asr_inference_streaming if streaming else asr_inference
    decode = [
        "--config", CONF / ("decode_asr_streaming.yaml" if streaming else "decode_asr.yaml"),
        "--data_path_and_name_and_type", f"{data}/test_clean/wav.scp,speech,sound", "--output_dir", tmp_path / "decode",
        "--asr_train_config", tmp_path / "config.yaml", "--asr_model_file", tmp_path / "valid.acc.ave.pth",
        "--beam_size", "2",
    ]  # fmt: skip
    program.main([str(option) for option in decode])
    assert len((tmp_path / "decode/1best_recog/text").read_text().splitlines()) == 4


@pytest.mark.parametrize("model", MODELS)
def test_the_models_are_quantized_at_their_full_size(model, tmp_path):
    """Built without memory."""
    import torch

    import espnet_rand

    espnet_rand.register()
    from espnet2.tasks.asr import ASRTask

    tokens = tmp_path / "tokens.txt"
    tokens.write_text("\n".join(["<blank>", "<unk>", *map(str, range(4997)), "<sos/eos>"]))
    options = ["--config", CONF / f"train_asr_{model}.yaml", "--token_list", tokens, "--output_dir", tmp_path / "exp"]
    options += ["--quantizer_config", PRESETS / "rand_w4.yaml", "--init", "none"]
    with torch.device("meta"):
        built = ASRTask.build_model(ASRTask.get_parser().parse_args([str(option) for option in options]))
    millions = sum(parameter.numel() for parameter in built.parameters()) / 1e6
    expected = {"conformer": 116, "e_branchformer": 149, "transducer": 94, "streaming_conformer": 46, "transformer": 78}
    assert round(millions) == expected[model]
    assert hasattr(built, "_quantization")


def test_unknown_models_and_too_many_tokens_are_named(conformer, recipe):
    done = run_in_recipe("./run.sh", "--model", "whisper")
    assert done.returncode == 1 and "--model must be conformer" in done.stderr
    done = recipe("conformer", "--nbpe", "5000", "--stage", "2", "--stop_stage", "2")
    assert done.returncode == 1 and "--nbpe 5000 does not go with" in done.stderr


SALLOC = """#!/usr/bin/env bash
echo "$@" > "$(dirname "$0")/salloc.log"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=one,two SLURM_LOCALID=0
SLURM_PROCID=0 SLURM_NODEID=0 "$@" &
first=$!
SLURM_PROCID=1 SLURM_NODEID=1 "$@" > "$(dirname "$0")/second.log" 2>&1 && wait "${first}"
"""


def test_two_nodes_of_slurm(conformer, tmp_path):
    """Commands that behave like Slurm's, two processes on this machine: ESPnet's launcher, DDP by gloo, RAND."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("salloc", SALLOC), ("srun", SRUN)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    template = RECIPE.parents[1] / "TEMPLATE/asr1"
    (tmp_path / "path.sh").write_text(f"export PATH={programs}:${{PATH}}\n")
    (tmp_path / "cmd.sh").write_text(
        f'train_cmd=\ndecode_cmd=\ncuda_cmd="{template}/utils/slurm.pl --num_threads 3 --partition=gpu"\n'
    )
    config = CONF / "train_asr_conformer.yaml"
    command = (
        "env", "-C", tmp_path, template / "asr.sh", "--stage", "4", "--stop_stage", "4", "--num_nodes", "2",
        "--datadir", conformer / "data", "--expdir", tmp_path / "exp", "--train_set", "train_clean_100",
        "--token_type", "bpe", "--nbpe", TOKENS, "--asr_args", tiny("conformer"),
        "--systems", f"rand train {config} - --quantizer_config {PRESETS}/rand_w4.yaml",
    )  # fmt: skip
    done = run_in_recipe(*command)
    if "Aborted" in done.stdout + done.stderr:  # gloo, when one process ends before the other, on a busy machine
        done = run_in_recipe(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = (programs / "salloc.log").read_text()
    assert asked.startswith("--nodes=2 --ntasks-per-node=1 --cpus-per-task=3 --partition=gpu srun --export=ALL ")
    assert "--dist_launcher slurm" in asked and "--dist_backend gloo" in asked
    assert ":0/2]" in (tmp_path / "exp/rand/train.log").read_text()
    assert (tmp_path / "exp/rand/valid.acc.ave.pth").exists() and (tmp_path / "exp/rand/quantization.yaml").exists()
