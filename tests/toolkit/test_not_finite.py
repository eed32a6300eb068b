"""Checkpoints with numbers that are NaN or infinite are refused by name, wherever a quantized model gets them."""

import pytest
import torch

import espnet_rand
from espnet_rand.bin import pack_weights, quantize_weights
from espnet_rand.errors import NotFiniteError

espnet_rand.register()

from espnet2.tasks import abs_task  # noqa: E402

from tests.toolkit import tasks  # noqa: E402

NAME = "decoder.decoders.0.feed_forward.w_1.bias"
SCALE = "ctc.ctc_lo.weight__lsc_channel_w4_quantizer_scale"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """config.yaml of a quantized model and of the same in float; checkpoints of the former with a NaN each."""
    root = tmp_path_factory.mktemp("finite")
    task, quantized = tasks.write_config("asr", root / "lsc", quantizer="lsc", quantizer_conf={"bits": 4})
    tasks.write_config("asr", root / "float")
    state = task.build_model_from_file(quantized / "config.yaml")[0].state_dict()
    for name in (NAME, SCALE):
        wrong = {key: tensor.clone() for key, tensor in state.items()}
        wrong[name].view(-1)[-1] = torch.nan
        torch.save(wrong, quantized / f"{name}.pth")
    return root


@pytest.mark.parametrize("name", [NAME, SCALE])
def test_it_is_not_packed_decoded_or_trained_from(folders, tmp_path, name):
    config, model = folders / "lsc/config.yaml", folders / f"lsc/{name}.pth"
    arguments = ["--train_config", str(config), "--model_file", str(model), "--output", str(tmp_path / "packed")]
    with pytest.raises(SystemExit, match=f"not finite .*{name}"):
        pack_weights.main(arguments)
    with pytest.raises(NotFiniteError, match=name):
        tasks.find_task("asr").build_model_from_file(config, model)
    fresh, _ = tasks.find_task("asr").build_model_from_file(config)
    with pytest.raises(NotFiniteError, match=name):
        abs_task.load_pretrained_model(str(model), fresh, False)
    assert not list(tmp_path.iterdir())


def test_it_is_not_rounded(folders, tmp_path):
    arguments = ["--train_config", folders / "float/config.yaml", "--model_file", folders / f"lsc/{NAME}.pth"]
    with pytest.raises(SystemExit, match=f"not finite .*{NAME}"):
        quantize_weights.main([*map(str, arguments), "--quantizer", "absmax", "--output", str(tmp_path / "packed")])
    assert not list(tmp_path.iterdir())
