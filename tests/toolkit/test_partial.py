"""Checkpoints of adapters alone: the rest is that of init_param, never random."""

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand import OptionError
from espnet_rand.bin import pack_weights, quantize_weights
from espnet_rand.packing import read_packed

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
QUANTIZERS = {"adapter_only": ("--quantizer_config", "rand_w4"), "required_grad_only": ("--quantizer", "lsc")}


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
    return read_packed(output).state_dict()


LAYER = "decoder.decoders.0.src_attn.linear_q"


def test_the_weights_are_those_of_init_param_and_the_adapter(part, base, tmp_path, request):
    """W0 + B A of the trained adapter, as it was in the training, and all else of the base."""
    before, saved = (torch.load(path, weights_only=True) for path in (base, part / "valid.loss.best.pth"))
    model, _ = ASRTask.build_model_from_file(part / "config.yaml", part / "valid.loss.best.pth")
    layer = model.eval().get_submodule(LAYER)
    change = saved[f"{LAYER}.lora_B"] @ saved[f"{LAYER}.lora_A"] * layer.scaling
    assert change.abs().max() > 1e-5
    assert torch.allclose(layer._parameters["weight"], before[f"{LAYER}.weight"] + change, atol=1e-7)
    others = [key for key in before if "linear_q" not in key and key not in saved]
    state = model.state_dict()
    assert others and all(torch.equal(state[key], before[key]) for key in others)
    packed = pack(part, tmp_path / "packed")
    assert torch.equal(packed[f"{LAYER}.weight"], layer.weight)


def test_resuming_and_what_is_not_saved(part, corpus, train, base, tmp_path, caplog):
    """ESPnet would load the base as if the adapter were merged into it."""
    strategy = yaml.safe_load((part / "config.yaml").read_text())["save_strategy"]
    common = (
        "--config",
        corpus.config,
        *ADAPTER,
        *QUANTIZERS[strategy],
        "--save_strategy",
        strategy,
        "--init_param",
        base,
    )
    before = (part / "config.yaml").read_text()
    with pytest.raises(OptionError, match=f"{strategy} can't be resumed"):
        train(*common, "--output_dir", part, "--resume", "true", "--max_epoch", 2)
    assert (part / "config.yaml").read_text() == before
    train(*common, "--output_dir", tmp_path / "again")
    assert ("what they learn is lost" in caplog.text) == (strategy == "adapter_only")


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
