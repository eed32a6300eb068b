"""`--teacher` in ESPnet's own training."""

import argparse

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand.toolkit.pretrained.fitting import PretrainedError
from tests.toolkit.tasks import write_config

espnet_rand.register()

from espnet2.bin.asr_inference import Speech2Text  # noqa: E402

ROUNDED = ("--quantizer", "rand", "--quantizer_conf", "bits=2", "--quantizer_conf", "estimator=ste")


@pytest.fixture(scope="module")
def teacher(corpus, train, tmp_path_factory):
    expdir = tmp_path_factory.mktemp("teacher")
    train("--config", corpus.config, "--output_dir", expdir)
    return expdir / "valid.loss.ave.pth"


def statistics(expdir):
    stats = torch.load(expdir / "checkpoint.pth", weights_only=True)["reporter"]["stats"]
    return {epoch: stats[epoch] for epoch in stats if isinstance(epoch, int)}


def test_a_training_draws_near_to_its_teacher(corpus, train, teacher, tmp_path):
    """In twenty epochs, of which the last ten are resumed."""
    for epochs in (10, 20):
        train(
            "--config", corpus.config, "--output_dir", tmp_path, "--init_param", teacher, *ROUNDED,
            "--teacher", teacher, "--max_epoch", epochs, "--resume", "true",
        )  # fmt: skip
    done = statistics(tmp_path)
    first, last = (done[epoch]["train"] for epoch in (1, 20))
    assert last["outputs"] < 0.7 * first["outputs"] and last["states"] < 0.7 * first["states"]
    assert "outputs" not in done[20]["valid"]
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["teacher"] == str(teacher)
    assert config["teacher_conf"] == {"labels": 0.0, "outputs": 1.0, "states": 40.0}


def test_decoding_needs_no_teacher(corpus, train, teacher, tmp_path):
    gone = tmp_path / "gone.pth"
    gone.write_bytes(teacher.read_bytes())
    train("--config", corpus.config, "--output_dir", tmp_path / "taught", *ROUNDED, "--teacher", gone)
    gone.unlink()
    Speech2Text(str(tmp_path / "taught/config.yaml"), str(tmp_path / "taught/valid.loss.ave.pth"))


def test_what_cannot_teach_is_named(corpus, train, teacher, tmp_path, capsys):
    common = ("--config", corpus.config, "--output_dir", tmp_path)
    with pytest.raises(PretrainedError, match="no such file or directory: nowhere.pth"):
        train(*common, *ROUNDED, "--teacher", "nowhere.pth")
    with pytest.raises(PretrainedError, match=f"--teacher {teacher} does not fit the model: .*encoder"):
        train(*common, *ROUNDED, "--teacher", teacher, "--encoder_conf", "linear_units=24")
    for given, message in (
        (("--teacher", teacher), "teacher is given without quantizer"),
        ((*ROUNDED, "--teacher_conf", "labels=1"), "teacher_conf is given without teacher"),
        ((*ROUNDED, "--teacher", teacher, "--teacher_conf", "label=1"), "must be a mapping of labels, outputs, states"),
        ((*ROUNDED, "--teacher", teacher, "--teacher_conf", "labels=-1"), "labels: -1 is not allowed"),
    ):
        with pytest.raises(SystemExit, match="2"):
            train(*common, *given)
        assert message in capsys.readouterr().err


BATCH = {
    "speech": 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)),
    "speech_lengths": torch.tensor([8000, 6000]),
    "text": torch.tensor([[2, 3, 4], [3, 2, -1]]),
    "text_lengths": torch.tensor([3, 2]),
}


@pytest.mark.parametrize("name", ["asr", "asr_rnn", "slu", "asr_transducer", "asr_streaming", "lm"])
def test_every_kind_of_recognizer_is_taught(name, tmp_path):
    """At 8 bits the outputs are nearly those of the teacher, at 2 bits they are not; both learn."""
    task, folder = write_config(name, tmp_path / name)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    torch.manual_seed(0)
    torch.save(task.build_model(argparse.Namespace(**config)).state_dict(), folder / "teacher.pth")
    batch = BATCH if name != "lm" else {"text": BATCH["text"].clamp(0), "text_lengths": BATCH["text_lengths"]}
    errors = {}
    for bits in (2, 8):
        conf = {"quantizer": "rand", "quantizer_conf": {"bits": bits, "estimator": "ste"}}
        args = argparse.Namespace(**{**config, **conf, "teacher": str(folder / "teacher.pth")})
        torch.manual_seed(0)
        model = task.build_model(args)
        model.load_state_dict(torch.load(folder / "teacher.pth", weights_only=True), strict=False)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loss, stats, _ = model.train()(**{key: tensor.clone() for key, tensor in batch.items()})
        loss.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        errors[bits] = stats["outputs"]
    assert errors[8] < errors[2] / 4


def test_what_has_no_known_outputs_is_refused(tmp_path):
    task, folder = write_config("tts", tmp_path / "tts")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    args = argparse.Namespace(**{**config, "quantizer": "rand", "teacher": "any.pth"})
    with pytest.raises(espnet_rand.OptionError, match="any.pth is given, but ESPnetTTSModel has no decoder"):
        task.build_model(args)
    with pytest.raises(espnet_rand.OptionError, match="DiarizationModel has no decoder of tokens"):
        _diarization({"quantizer": "rand", "teacher": "any.pth"})


def _diarization(more):
    from espnet2.tasks.diar import DiarizationTask

    config = {**DiarizationTask.get_default_config(), "num_spk": 2, "encoder": "rnn", "decoder": "linear", **more}
    config.update(encoder_conf={"num_layers": 1, "hidden_size": 8, "output_size": 8})
    return DiarizationTask.build_model(argparse.Namespace(**config))


def test_statistics_are_collected_without_the_teacher(corpus, train, teacher, tmp_path):
    """Which has the mean and variance that are about to be collected."""
    args = ("--config", corpus.config, "--output_dir", tmp_path, *ROUNDED, "--teacher", "nowhere.pth")
    train(*args, "--collect_stats", "true")
    assert (tmp_path / "train/feats_stats.npz").exists()


def test_other_tokens_do_not_teach(corpus, train, teacher, tmp_path):
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("<blank>\n<unk>\nb\na\n<sos/eos>\n")
    with pytest.raises(PretrainedError, match="differs from that of .* in 2 of 5 tokens"):
        train(
            "--config", corpus.config, "--output_dir", tmp_path, *ROUNDED, "--teacher", teacher, "--token_list", tokens
        )
