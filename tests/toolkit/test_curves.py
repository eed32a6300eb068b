"""Curves of each weight's rounding in TensorBoard and wandb."""

import sys
import types

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import espnet_rand

espnet_rand.register()

from espnet2.tasks import abs_task  # noqa: E402
from espnet2.tasks.asr import ASRTask  # noqa: E402

from espnet_rand.layers import quantized_weights, rounding_statistics  # noqa: E402
from espnet_rand.toolkit.hooks import curves  # noqa: E402

QUANTIZED = ("--quantizer", "rand", "--quantizer_conf", "start_step=3")
MEASURES = {"rounding_error", "scale", "clipped", "c"}


def events(expdir, split="valid"):
    found = EventAccumulator(str(expdir / "tensorboard" / split), {"histograms": 0, "scalars": 0})
    found.Reload()
    return found


def test_tensorboard_has_the_rounding_of_each_epoch(corpus, train, tmp_path):
    given = ("--use_tensorboard", "true", "--max_epoch", 2, "--quantizer_conf", "histograms=codes")
    train("--config", corpus.config, "--output_dir", tmp_path, *QUANTIZED, *given)
    valid = events(tmp_path)
    model, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml", tmp_path / "2epoch.pth")
    weights = quantized_weights(model)
    of_weights = {tag for tag in valid.Tags()["scalars"] if "/" in tag}
    assert of_weights == {f"{measure}/{name}" for measure in MEASURES for name in weights}
    steps = [event.step for event in valid.Scalars("loss")]
    for name, weight in weights.items():
        for measure, value in rounding_statistics(weight).items():
            drawn = valid.Scalars(f"{measure}/{name}")
            assert [event.step for event in drawn] == steps and len(steps) == 2
            assert drawn[-1].value == pytest.approx(value, rel=1e-4, abs=1e-7), (measure, name)
        bars = valid.Histograms(f"codes/{name}")[-1].histogram_value
        assert bars.num == weight.parameter.numel() and (bars.min, bars.max) == tuple(map(int, codes(weight).aminmax()))
        assert [round(n) for n in bars.bucket if n] == torch.unique(codes(weight), return_counts=True)[1].tolist()
    assert not any("/" in tag for tag in events(tmp_path, "train").Tags()["scalars"])


def codes(weight):
    return weight.encode()[0]


def test_nothing_is_computed_where_nothing_is_written(corpus, train, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "rounding_statistics", lambda weight: 1 / 0)
    train("--config", corpus.config, "--output_dir", tmp_path / "none", *QUANTIZED)
    train("--config", corpus.config, "--output_dir", tmp_path / "float", "--use_tensorboard", "true")
    tags = events(tmp_path / "float").Tags()
    assert "loss" in tags["scalars"] and not any("/" in tag for tag in tags["scalars"] + tags["histograms"])


def test_wandb_gets_them_in_the_step_of_espnets_own(corpus, train, tmp_path, monkeypatch):
    logged = []
    wandb = types.SimpleNamespace(
        login=lambda: None,
        init=lambda **_: None,
        config=types.SimpleNamespace(update=lambda *_, **__: None),
        log=lambda numbers, commit=True: logged.append((numbers, commit)),
        Histogram=lambda np_histogram: np_histogram,
        run=None,
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(abs_task, "wandb", wandb)
    given = ("--use_wandb", "true", "--quantizer_conf", "histograms=weights")
    train("--config", corpus.config, "--output_dir", tmp_path, *QUANTIZED, *given)
    (ours, commits), (theirs, _) = logged[-2:]
    assert not commits and theirs["epoch"] == 1
    state = torch.load(tmp_path / "1epoch.pth", weights_only=True)
    name = "ctc.ctc_lo.weight"
    assert {what for what in MEASURES | {"weights"} if f"{what}/{name}" in ours} == MEASURES | {"weights"}
    counts, edges = ours[f"weights/{name}"]
    assert counts.sum() == state[name].numel()
    assert (edges[0], edges[-1]) == pytest.approx(tuple(map(float, state[name].aminmax())))


def test_numbers_that_are_nearly_equal_have_a_histogram():
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.000001]])
    espnet_rand.quantize(layer, espnet_rand.QuantizerConfig("absmax"))
    ((_, numbers, edges),) = curves._Curves(layer, "weights").histograms()
    assert sum(np.histogram(numbers, edges)[0]) == 2
