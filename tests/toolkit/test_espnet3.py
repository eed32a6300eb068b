"""What ESPnet3's training calls, with the plugin."""

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand.layers import quantized_layers

training = pytest.importorskip("espnet3.systems.base.training")
omegaconf = pytest.importorskip("omegaconf")
espnet_rand.register()

ASR = "espnet2.tasks.asr.ASRTask"


def test_registered_before_any_task(run):
    """As `run.py --stages train` needs it: ESPnet3 loads the task late, within what we wrap."""
    probe = "from espnet3.systems.base.training import save_espnet_config as f; print(getattr(f, 'func', f).__module__)"
    assert run("espnet-rand", "-c", probe).stdout.split()[-1] == "espnet_rand.toolkit.hooks.espnet3"


@pytest.fixture
def config(corpus):
    """Of a training, as ESPnet3 reads it."""
    model = yaml.safe_load(corpus.config.read_text())
    return omegaconf.OmegaConf.create({"model": {**model, "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"]}})


def test_options_are_resolved_and_reported(config, tmp_path):
    """config.yaml names every option, and needs no preset; the report lies beside it, though nobody asked for it."""
    preset = tmp_path / "preset.yaml"
    preset.write_text("quantizer: rand\nquantizer_conf: {bits: 3}\n")
    config.model.quantizer_config = str(preset)
    expdir = tmp_path / "exp"
    training.save_espnet_config(ASR, config, str(expdir))
    preset.unlink()
    saved = yaml.safe_load((expdir / "config.yaml").read_text())
    assert (saved["quantizer"], saved["quantizer_conf"]["bits"], saved["quantizer_conf"]["p"]) == ("rand", 3, 8)
    assert (saved["quantizer_config"], saved["teacher"], saved["teacher_conf"]) == (None, None, {})
    assert quantized_layers(training.get_espnet_model(ASR, omegaconf.OmegaConf.to_container(config.model)))
    assert yaml.safe_load((expdir / "quantization.yaml").read_text())["quantized"][0]["bits"] == 3


def test_options_beside_the_model_are_refused(config, tmp_path):
    """ESPnet3 would train in float, write them into config.yaml, and decode with rounded weights."""
    config.quantizer = "rand"
    with pytest.raises(espnet_rand.OptionError, match="quantizer: 'rand' stands beside `model:`"):
        training.save_espnet_config(ASR, config, str(tmp_path))
    assert not (tmp_path / "config.yaml").exists()


def test_eval_bits_of_the_launcher_are_refused(config, tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_RAND_EVAL_BITS", "3")
    with pytest.raises(espnet_rand.OptionError, match="started with it for a training"):
        training.save_espnet_config(ASR, config, str(tmp_path))


def test_without_options_nothing_changes(config, tmp_path):
    before = omegaconf.OmegaConf.to_container(config)
    training.save_espnet_config(ASR, config, str(tmp_path))
    assert omegaconf.OmegaConf.to_container(config) == before
    assert not quantized_layers(training.get_espnet_model(ASR, before["model"]))


def test_init_param_and_teacher(config, tmp_path):
    model = omegaconf.OmegaConf.to_container(config.model)
    float_model = training.get_espnet_model(ASR, model)
    torch.save({"state_dict": float_model.state_dict()}, tmp_path / "last.ckpt")  # as Lightning does
    model.update(quantizer="rand", init_param=[str(tmp_path / "last.ckpt")])
    tuned = training.get_espnet_model(ASR, model)
    parameters = dict(tuned.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in float_model.named_parameters())
    training.get_espnet_model(ASR, {**model, "init_param": model["init_param"][0]})  # one, without a list
    taught = training.get_espnet_model(ASR, {**model, "teacher": str(tmp_path / "last.ckpt")})
    batch = {"speech": torch.randn(1, 8000), "text": torch.tensor([[2]])}
    lengths = {"speech_lengths": torch.tensor([8000]), "text_lengths": torch.tensor([1])}
    assert {"outputs", "states"} <= taught.train()(**batch, **lengths)[1].keys()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"token_list": ["<blank>", "<unk>", "b", "<sos/eos>"]}))
    with pytest.raises(ValueError, match="token_list differs .* in 1 of 4 tokens"):
        training.get_espnet_model(ASR, model)
    with pytest.raises(ValueError, match="--teacher .* token_list differs .* in 1 of 4 tokens"):
        training.get_espnet_model(ASR, {**model, "init_param": [], "teacher": str(tmp_path / "last.ckpt")})
    model.update(token_list=["<blank>", "<unk>", "a", "b", "<sos/eos>"])
    with pytest.raises(ValueError, match="does not fit the model.*ctc.ctc_lo.weight"):
        training.get_espnet_model(ASR, model)
