"""Checkpoints of adapters alone: the rest is that of init_param, never random."""

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand import OptionError
from espnet_rand.bin import pack_weights, quantize_weights
from espnet_rand.packing import read

pytest.importorskip("loralib")
espnet_rand.register()

from espnet2.tasks.asr import ASRTask  # noqa: E402

from espnet_rand.toolkit.pretrained.fitting import PretrainedError  # noqa: E402

ADAPTER = (
    "--use_adapter",
    "true",
    "--adapter_conf",
    "target_modules=[linear_q]",
    "--freeze_param",
    "encoder",
    "decoder",
)
QUANTIZERS = {"adapter_only": ("--quantizer", "rand"), "required_grad_only": ("--quantizer", "lsc")}


@pytest.fixture(scope="module")
def base(corpus, train, tmp_path_factory):
    """A float model."""
    folder = tmp_path_factory.mktemp("base")
    train("--config", corpus.config, "--output_dir", folder)
    return folder / "valid.loss.best.pth"


@pytest.fixture(params=QUANTIZERS)
def part(request, corpus, train, base, tmp_path):
    """An adapter of it, trained with a quantizer and saved alone."""
    train(
        "--config", corpus.config, *ADAPTER, *QUANTIZERS[request.param], "--save_strategy", request.param,
        "--init_param", base, "--output_dir", tmp_path / "part",
    )  # fmt: skip
    return tmp_path / "part"


def pack(folder, output, command=pack_weights, *more):
    model = folder / "valid.loss.best.pth"
    arguments = ["--train_config", folder / "config.yaml", "--model_file", model, "--output", output, *more]
    command.main([str(argument) for argument in arguments])
    return read(output).state_dict()


def test_the_base_is_that_of_init_param(part, base, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    config = yaml.safe_load((part / "config.yaml").read_text())
    (whole / "config.yaml").write_text(yaml.safe_dump({**config, "save_strategy": "all", "init_param": []}))
    states = [torch.load(path, weights_only=True) for path in (base, part / "valid.loss.best.pth")]
    assert states[1].keys() != states[0].keys()
    torch.save({**states[0], **states[1]}, whole / "valid.loss.best.pth")
    found, wanted = pack(part, tmp_path / "part.packed"), pack(whole, tmp_path / "whole.packed")
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    models = [
        ASRTask.build_model_from_file(folder / "config.yaml", folder / "valid.loss.best.pth")[0].eval()
        for folder in (part, whole)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(model.state_dict().values() for model in models)))


def test_scales_that_would_not_be_saved_are_refused(corpus, train, base, tmp_path):
    with pytest.raises(OptionError, match="adapter_only .* learned scales"):
        train(
            "--config", corpus.config, *ADAPTER, "--quantizer", "lsc", "--save_strategy", "adapter_only",
            "--init_param", base, "--output_dir", tmp_path,
        )  # fmt: skip


def test_a_random_base_is_refused(part, tmp_path, capsys):
    config = yaml.safe_load((part / "config.yaml").read_text())
    for init_param, message in (([], "nothing gives .* tensors .* random"), (["gone.pth"], "gone.pth")):
        (part / "config.yaml").write_text(yaml.safe_dump({**config, "init_param": init_param}))
        with pytest.raises(SystemExit, match=f"save_strategy .*{message}"):
            pack(part, tmp_path / "packed")
        with pytest.raises(PretrainedError, match=f"save_strategy .*{message}"):
            ASRTask.build_model_from_file(part / "config.yaml", part / "valid.loss.best.pth")
        without = {k: v for k, v in config.items() if "quantizer" not in k and "teacher" not in k}
        (part / "config.yaml").write_text(yaml.safe_dump({**without, "init_param": init_param}))
        with pytest.raises(SystemExit, match=f"save_strategy .*{message}"):
            pack(part, tmp_path / "packed", quantize_weights, "--quantizer", "absmax")
    assert not (tmp_path / "packed").exists()
