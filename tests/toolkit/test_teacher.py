"""`--teacher` in ESPnet's own training."""

import argparse

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand.toolkit.pretrained.fitting import PretrainedError
from tests.toolkit.tasks import SMALL, write_config

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
        (
            (*ROUNDED, "--teacher", teacher, "--teacher_conf", "outputs=0", "--teacher_conf", "states=0"),
            "nothing of the teacher would count",
        ),
        ((*ROUNDED, "--teacher", teacher, "--teacher_conf", "outputs=.inf"), "outputs: inf is not allowed"),
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


def test_padded_tokens_of_a_transformer_decoder_do_not_count(tmp_path):
    """A batch of sentences is worth the mean of them, one at a time."""
    model = _build("asr", tmp_path, model_conf={"ctc_weight": 0.0}, decoder_conf={**SMALL, "dropout_rate": 0.0})
    texts = ([2, 3, 4, 2, 3, 4], [3])
    speech = BATCH["speech"][:1].expand(2, -1)  # as long as each other: the encoder pads nothing

    def outputs(*chosen):
        lengths = torch.tensor([*map(len, chosen)])
        text = torch.nn.utils.rnn.pad_sequence([*map(torch.tensor, chosen)], batch_first=True, padding_value=-1)
        count = len(chosen)
        return model(speech[:count], torch.full((count,), 8000), text, lengths)[1]["outputs"]

    together, alone = outputs(*texts), [outputs(text) for text in texts]
    torch.testing.assert_close(together, sum(alone) / 2, rtol=1e-3, atol=0)
    assert alone[0] > 1.5 * alone[1]


def test_the_joint_network_of_a_translator_is_taught(tmp_path):
    """Its decoder gives hidden states, as a transducer's does."""
    transducer = {"decoder": "transducer", "decoder_conf": {"hidden_size": 8}}
    transducer["st_joint_net_conf"] = {"joint_space_size": 8}
    model = _build("st", tmp_path, **transducer, model_conf={"asr_weight": 0.0})
    loss, *_ = model(**BATCH)
    loss.backward()
    assert model.st_joint_network.lin_out.weight.grad.abs().sum() > 0


def test_a_language_model_has_outputs_alone(tmp_path):
    task, folder = write_config("lm", tmp_path / "lm", teacher="any.pth", teacher_conf={"outputs": 0}, quantizer="rand")
    args = argparse.Namespace(**yaml.safe_load((folder / "config.yaml").read_text()))
    with pytest.raises(espnet_rand.OptionError, match="outputs: 0 is not allowed .* has no encoder"):
        task.build_model(args)


def test_the_teachers_ctc_drops_nothing(tmp_path):
    model = _build("asr", tmp_path, model_conf={"ctc_weight": 1.0}, ctc_conf={"dropout_rate": 0.5})
    model.ctc.dropout_rate = 0.0
    first, second = (model(**BATCH)[1]["outputs"] for _ in range(2))
    assert first == second


def _build(name, tmp_path, **more):
    """A model that is taught by one of other weights, in training mode, without what differs in each forward."""
    quantized = {"quantizer": "rand", "quantizer_conf": {"bits": 8, "estimator": "ste"}, "teacher": f"{tmp_path}/t.pth"}
    task, folder = write_config(name, tmp_path / name, **more)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    torch.save(task.build_model(argparse.Namespace(**config)).state_dict(), tmp_path / "t.pth")
    model = task.build_model(argparse.Namespace(**{**config, **quantized})).train()
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.BatchNorm1d)):
            module.eval()
    return model


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
