"""The transducer loss that stands in for warprnnt_pytorch, against all alignments of a small lattice."""

import itertools
import logging

import pytest
import torch
import yaml

import espnet_rand

espnet_rand.register()

from espnet2.tasks.asr import ASRTask  # noqa: E402

RNNTLoss = pytest.importorskip("warprnnt_pytorch").RNNTLoss
STANDS_IN = RNNTLoss.__module__.startswith("espnet_rand")
LOGIT_LENGTHS, TARGET_LENGTHS = torch.tensor([4, 3]), torch.tensor([2, 3])


def all_alignments(logits, target, blank):
    """-log of the probability of the target: the sum over every path of blanks and labels.

    Args:
        logits: (frames, labels + 1, classes)
        target: (labels,)
    """
    frames, labels = logits.shape[0], len(target)
    log_probs = logits.log_softmax(-1)
    paths = []
    # a path is an order of `labels` labels and `frames` blanks; the last is a blank
    for where in itertools.combinations(range(frames + labels - 1), labels):
        t = u = 0
        score = 0.0
        for step in range(frames + labels):
            if step in where:
                score = score + log_probs[t, u, target[u]]
                u += 1
            else:
                score = score + log_probs[t, u, blank]
                t += 1
        paths.append(score)
    return -torch.stack(paths).logsumexp(0)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    # one frame and one label more than the longest has, as padding
    return torch.randn(2, 5, 5, 6, dtype=torch.float64), torch.randint(1, 6, (2, 4))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("blank", [0, 5])
def test_loss_and_gradient_are_those_of_all_alignments(batch, reduction, blank):
    logits, targets = batch
    targets = targets - (1 if blank == 5 else 0)  # labels are all but the blank
    expected_logits, logits = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = torch.stack(
        [
            all_alignments(expected_logits[i, :t, : u + 1], targets[i, :u], blank)
            for i, (t, u) in enumerate(zip(LOGIT_LENGTHS, TARGET_LENGTHS))
        ]
    )
    expected = {"mean": expected.mean(), "sum": expected.sum(), "none": expected}[reduction]
    loss = RNNTLoss(blank=blank, reduction=reduction)(logits, targets, LOGIT_LENGTHS, TARGET_LENGTHS)
    torch.testing.assert_close(loss, expected.float())
    expected.sum().backward()
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, expected_logits.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not STANDS_IN, reason="warprnnt_pytorch is installed")
def test_half_precision_and_the_log(batch, caplog):
    logits, targets = batch
    with caplog.at_level(logging.WARNING):
        criterion = RNNTLoss()
    assert "torchaudio's rnnt_loss" in caplog.text
    loss = criterion(logits.bfloat16(), targets, LOGIT_LENGTHS, TARGET_LENGTHS)
    assert loss.dtype == torch.float32 and loss.isfinite()


@pytest.mark.skipif(not STANDS_IN, reason="warprnnt_pytorch is installed")
def test_what_it_cannot_do_is_an_error():
    with pytest.raises(ValueError, match="fastemit_lambda: 0.1 is not possible"):
        RNNTLoss(fastemit_lambda=0.1)


def test_a_quantized_transducer_trains_and_decodes(corpus, train, tmp_path):
    """ESPnet's own transducer, which imports warprnnt_pytorch."""
    config = corpus.write_config(
        {
            "decoder": "transducer",
            "decoder_conf": {"rnn_type": "lstm", "num_layers": 1, "hidden_size": 16},
            "joint_net_conf": {"joint_space_size": 16},
            "model_conf": {"ctc_weight": 0.3},
            "quantizer": "rand",
        },
        "transducer.yaml",
    )
    train("--config", config, "--output_dir", tmp_path)
    model, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml", tmp_path / "valid.loss.ave.pth")
    names = {name for name, _ in model.named_modules()}
    assert {"decoder.decoder.0", "joint_network.lin_enc"} <= names
    assert "joint_network.lin_enc" in (tmp_path / "quantization.yaml").read_text()

    from espnet2.bin.asr_inference import Speech2Text

    speech2text = Speech2Text(
        tmp_path / "config.yaml",
        tmp_path / "valid.loss.ave.pth",
        beam_size=2,
        transducer_conf={"search_type": "default"},
    )
    assert speech2text(torch.randn(8000).numpy())


def test_the_transducer_task_trains(corpus, tmp_path):
    """ESPnet's other transducer, espnet2.bin.asr_transducer_train."""
    from espnet2.tasks.asr_transducer import ASRTransducerTask

    block = {"block_type": "conformer", "hidden_size": 16, "linear_size": 16, "heads": 2, "conv_mod_kernel_size": 3}
    config = corpus.write_config({}, "task.yaml")
    options = yaml.safe_load(config.read_text())
    for name in ("encoder", "encoder_conf", "decoder", "decoder_conf", "model_conf", "num_att_plot"):
        del options[name]
    options["encoder_conf"] = {"body_conf": [block]}
    options["decoder_conf"] = {"embed_size": 8, "hidden_size": 8}
    options["joint_network_conf"] = {"joint_space_size": 8}
    config.write_text(yaml.safe_dump({**options, "decoder": "rnn", "quantizer": "rand"}))
    ASRTransducerTask.main(cmd=["--config", str(config), "--output_dir", str(tmp_path)])
    assert (tmp_path / "valid.loss.ave.pth").exists() and (tmp_path / "quantization.yaml").exists()
