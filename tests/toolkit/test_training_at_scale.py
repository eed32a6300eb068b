"""Several processes, mixed precision, gradient accumulation, DeepSpeed: in espnet2's own training, on the CPU."""

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import espnet_rand

espnet_rand.register()

from espnet2.tasks.asr import ASRTask  # noqa: E402
from espnet2.train import trainer  # noqa: E402

from espnet_rand.layers import SCALE_SUFFIX  # noqa: E402
from tests.toolkit import diary  # noqa: E402

MODE3 = ("--quantizer_config", "rand_m3_w4")


@pytest.fixture
def diaries(tmp_path, monkeypatch):
    """Makes an empty directory, to which the trainings write from then on."""

    def diaries(name):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(diary.DIRECTORY, str(tmp_path / name))
        return tmp_path / name

    return diaries


def forwards(checkpoint):
    """The training forwards that a checkpoint.pth has counted."""
    return torch.load(checkpoint, weights_only=False)["model"]._metadata[""]["quantizer_forwards"]


def test_from_one_process_to_two_and_back(corpus, train, run, diaries, tmp_path):
    """An epoch in this process, one in two that torchrun starts (gloo), one in this process again."""
    common = ("--config", corpus.config, "--batch_size", 2, "--resume", "true")
    quantized = (*common, *MODE3, "--quantizer_conf", "start_step=4", "--output_dir", tmp_path / "exp")
    stock = diaries("stock")
    train(*common, "--max_epoch", 2, "--output_dir", tmp_path / "float")
    one = diaries("one")
    train(*quantized, "--max_epoch", 1)
    two = diaries("two")
    run(
        "espnet-rand", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2,
        "-m", "espnet2.bin.asr_train", "--multiprocessing_distributed", "false", "--dist_backend", "gloo",
        *quantized, "--max_epoch", 2,
        ESPNET_RAND_IMPORT="tests.toolkit.diary", PYTHONPATH=str(Path(__file__).parents[2]),
    )  # fmt: skip
    assert forwards(tmp_path / "exp/checkpoint.pth") == 6
    last = diaries("last")
    train(*quantized, "--max_epoch", 3)
    assert forwards(tmp_path / "exp/checkpoint.pth") == 9

    ranks = [diary.read(two, rank) for rank in (0, 1)]
    float_run, first = diary.read(stock), diary.read(one)
    assert [line["utterances"] for line in first] == [line["utterances"] for line in float_run[:3]]
    for batch, *parts in zip(float_run[3:], *ranks):
        for rank, part in enumerate(parts):
            assert part["utterances"] == batch["utterances"][rank::2]
    assert [[line["parameters"] for line in lines] for lines in ranks][0] == [line["parameters"] for line in ranks[1]]
    # forward 3 is the last in float
    assert ranks[0][0]["weight"] == ranks[1][0]["weight"]
    drawn = [line["weight"] for lines in (ranks[0][1:], ranks[1][1:], diary.read(last)) for line in lines]
    assert len(drawn) == 7 and len(set(drawn)) == 7


def test_noise_is_fresh_in_each_forward_of_an_accumulated_step(corpus, train, diaries, tmp_path):
    """And start_step counts forwards, not steps of the optimizer."""
    written = diaries("diary")
    train(
        "--config", corpus.config, "--batch_size", 1, "--accum_grad", 3, "--quantizer_config", "rand_w4",
        "--quantizer_conf", "start_step=1", "--output_dir", tmp_path / "exp",
    )  # fmt: skip
    lines = diary.read(written)
    assert [len({line["parameters"] for line in step}) for step in (lines[:3], lines[3:], lines)] == [1, 1, 2]
    assert len({line["weight"] for line in lines}) == 6
    assert forwards(tmp_path / "exp/checkpoint.pth") == 6


@pytest.mark.parametrize("dtype, first_scale", [(torch.bfloat16, 2.0**10), (torch.float16, 2.0**16)], ids=str)
def test_mixed_precision(corpus, train, diaries, monkeypatch, tmp_path, dtype, first_scale):
    """`--use_amp`, which ESPnet and PyTorch leave out where there is no GPU, done on the CPU."""
    scalers = []

    class Scaler(torch.amp.GradScaler):
        def __init__(self):
            super().__init__("cpu", init_scale=first_scale)
            scalers.append(self)

    monkeypatch.setattr(trainer, "GradScaler", Scaler)
    monkeypatch.setattr(trainer, "autocast", lambda *_, enabled: torch.autocast("cpu", dtype, enabled))
    written = diaries("diary")
    train(
        "--config", corpus.config, *MODE3, "--quantizer_conf", "estimator=ste", "--batch_size", 1, "--max_epoch", 2,
        "--use_amp", "true", "--output_dir", tmp_path / "exp",
    )  # fmt: skip
    state = torch.load(tmp_path / "exp/2epoch.pth", weights_only=True)
    assert all(value.isfinite().all() for value in state.values())
    scales = [value for key, value in state.items() if key.endswith(SCALE_SUFFIX)]
    assert len(scales) > 10 and all((scale + math.log(2) / 8).abs().max() > 1e-4 for scale in scales)
    # steps whose gradients overflow are skipped; their forwards count
    skipped = len({line["parameters"] for line in diary.read(written)}) < 12
    assert skipped == (scalers[0].get_scale() < first_scale) == (dtype == torch.float16)
    assert forwards(tmp_path / "exp/checkpoint.pth") == 12


@pytest.mark.parametrize("quantizer, refused", [("rand_w4", False), ("lsc_w4", True)])
def test_a_learned_scale_that_starts_later_is_refused_with_deepspeed(corpus, quantizer, refused):
    """DeepSpeed's copies of the parameters would put the scale back to what it was at the start."""
    options = ["--quantizer_config", quantizer, "--quantizer_conf", "start_step=5", "--use_deepspeed", "true"]
    args = ASRTask.get_parser().parse_args(["--config", str(corpus.config), *options])
    with pytest.raises(espnet_rand.OptionError, match="start_step: 5 .*DeepSpeed") if refused else nullcontext():
        ASRTask.build_model(args)
