"""A recipe of another task on the stages that recipes share: tests/egs2/mt1, text to text."""

import shutil
from pathlib import Path

import pytest
import torch

import espnet_rand
from espnet_rand.bin import pack_weights
from tests.egs2.recipe import EGS2, run
from tests.toolkit import tasks

SYSTEM = "rand: {train: conf/train_mt.yaml, options: --quantizer absmax}"


@pytest.fixture
def recipe(tmp_path):
    """The recipe's directory, with a TEMPLATE beside it."""
    folder, template = tmp_path / "tiny/mt1", tmp_path / "TEMPLATE/mt1"
    shutil.copytree(Path(__file__).parent / "mt1", folder)
    template.mkdir(parents=True)
    (folder / "mt.sh").rename(template / "mt.sh")
    for name in ("utils", "pyscripts", "path.sh", "cmd.sh"):
        (template / name).symlink_to(EGS2 / "TEMPLATE/common" / name)
    return folder


def run_stages(recipe, first, last, *options):
    done = run(recipe / "run.sh", "--stage", first, "--stop_stage", last, *options)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_trainings_have_both_texts_as_inputs(recipe):
    espnet_rand.register()
    from espnet2.tasks.mt import MTTask

    run_stages(recipe, 1, 3, "--python", "echo")
    run_stages(recipe, 4, 4, "--python", "echo", "--mt_args", "--seed 3")
    command = (recipe / "exp/float/train.log").read_text().splitlines()[-1].split()  # by echo
    assert command[:2] == ["-m", "espnet2.bin.mt_train"]
    args = MTTask.get_parser().parse_args([word.replace("conf/", f"{recipe}/conf/") for word in command[2:]])
    assert args.train_data_path_and_name_and_type == [
        ("data/train/text.src", "src_text", "text"),
        ("data/train/text", "text", "text"),
    ]
    assert args.valid_shape_file == ["data/stats/valid/src_text_shape", "data/stats/valid/text_shape"]
    assert args.seed == 3 and args.src_token_list == "data/token_list/source/tokens.txt"
    (recipe / "exp/float/valid.loss.ave.pth").touch()
    run_stages(recipe, 5, 5, "--python", "echo")
    assert "espnet_rand.bin.quantize_weights --task mt " in (recipe / "exp/float_w4/pack.log").read_text()


def test_packed_files_are_decoded_and_scored_by_its_own_measure(recipe):
    espnet_rand.register()
    run_stages(recipe, 1, 1)
    task, exp = tasks.write_config("mt", recipe / "exp/rand", quantizer="absmax", quantizer_conf={"bits": 4})
    torch.manual_seed(0)
    model, _ = task.build_model_from_file(exp / "config.yaml")
    files = exp / "config.yaml", exp / "valid.loss.ave.pth", exp / "packed.safetensors"
    torch.save(model.state_dict(), files[1])
    for name in ("train.done", "quantization.yaml"):  # as a training leaves them
        (exp / name).touch()
    options = zip(("--task", "--train_config", "--model_file", "--output"), ("mt", *map(str, files)))
    pack_weights.main([word for option in options for word in option])
    run_stages(recipe, 6, 7, "--systems", SYSTEM)
    header, _, row = (recipe / "exp/RESULTS.md").read_text().splitlines()
    assert [cell.strip() for cell in header.split("|")[4:7]] == ["sentences", "right %", "size kB"]
    assert "4 bits, channel" in row and "| test | 4 " in row
    assert "--mt_model_file exp/rand/packed.safetensors" in next((exp / "decode_test").rglob("decode.log")).read_text()
