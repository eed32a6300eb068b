"""A recipe of another task on the stages that recipes share: tests/egs2/mt1, text to text."""

import shutil
from pathlib import Path

import pytest
import torch

import espnet_rand
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


def test_its_trainings_have_both_texts_as_inputs(recipe):
    espnet_rand.register()
    from espnet2.tasks.mt import MTTask

    done = run(recipe / "run.sh", "--python", "echo", "--stop_stage", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(recipe / "run.sh", "--python", "echo", "--stage", "4", "--stop_stage", "4", "--mt_args", "--seed 3")
    assert done.returncode == 0, done.stdout + done.stderr
    command = (recipe / "exp/float/train.log").read_text().splitlines()[-1].split()  # by echo
    assert command[:2] == ["-m", "espnet2.bin.mt_train"]
    args = MTTask.get_parser().parse_args([word.replace("conf/", f"{recipe}/conf/") for word in command[2:]])
    assert args.train_data_path_and_name_and_type == [
        ("data/train/text.src", "src_text", "text"),
        ("data/train/text", "text", "text"),
    ]
    assert args.valid_shape_file == ["data/stats/valid/src_text_shape", "data/stats/valid/text_shape"]
    assert args.seed == 3 and args.src_token_list == "data/token_list/source/tokens.txt"


def test_it_packs_decodes_and_scores_by_its_own_measure(recipe):
    assert run(recipe / "run.sh", "--stop_stage", "1").returncode == 0
    task, exp = tasks.write_config("mt", recipe / "exp/rand", quantizer="absmax", quantizer_conf={"bits": 4})
    torch.manual_seed(0)
    model, _ = task.build_model_from_file(exp / "config.yaml")
    torch.save(model.state_dict(), exp / "valid.loss.ave.pth")
    for name in ("train.done", "quantization.yaml"):  # as a training leaves them
        (exp / name).touch()
    done = run(recipe / "run.sh", "--systems", SYSTEM, "--stage", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    header, _, row = (recipe / "exp/RESULTS.md").read_text().splitlines()
    assert [cell.strip() for cell in header.split("|")[4:7]] == ["sentences", "right %", "size kB"]
    assert "4 bits, channel" in row and "| test | 4 " in row
    assert "--mt_model_file exp/rand/packed.safetensors" in next((exp / "decode_test").rglob("decode.log")).read_text()
