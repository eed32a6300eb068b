"""What ESPnet does with our files where it is started with plain python: what it says, and that it says it."""

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand.packing import pack_model, write_packed
from tests.toolkit import tasks

espnet_rand.register()

PROGRAM = """
import sys, torch
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
assert not hasattr(ASRTask.get_parser().parse_args([]), "quantizer")
config, files = sys.argv[1], sys.argv[2:]
for file in files:
    try:
        ASRTask.build_model_from_file(config, file)
        print("taken")
    except RuntimeError as e:
        print("size mismatch" in str(e))
    model, _ = ASRTask.build_model_from_file(config, None)
    try:
        load_pretrained_model(file, model, False)
        print("taken")
    except RuntimeError as e:
        print("size mismatch" in str(e))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """config.yaml, a checkpoint with learned scales, and packed files of 4 and 8 bits."""
    quantizer = {"quantizer": "rand", "quantizer_conf": {"bits": [4, 8], "mode": 3}}
    task, folder = tasks.write_config("asr", tmp_path_factory.mktemp("plain") / "asr", **quantizer)
    model, _ = task.build_model_from_file(folder / "config.yaml")
    torch.save(model.state_dict(), folder / "model.pth")
    for bits in (4, 8):
        espnet_rand.set_eval_bits(model, bits)
        write_packed(folder / f"w{bits}.safetensors", pack_model(model))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    stock = {key: value for key, value in config.items() if "quantizer" not in key and "teacher" not in key}
    (folder / "stock.yaml").write_text(yaml.safe_dump(stock))
    return folder


def test_packed_files_are_refused_and_checkpoints_decode_in_float(files, run):
    done = run(
        "python", "-c", PROGRAM, files / "stock.yaml", files / "w4.safetensors", files / "w8.safetensors",
        files / "model.pth",
    )  # fmt: skip
    # the last: keys of learned scales, which ESPnet's --init_param refuses, in another message
    assert done.stdout.split() == ["True", "True", "True", "True", "taken", "False"]
