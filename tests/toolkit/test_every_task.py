"""Each of ESPnet's tasks at the tiniest size: quantized from YAML, trained, packed, decoded. docs/tasks.md says so."""

import random
import re
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter

import espnet_rand
from espnet_rand.batches import copied
from espnet_rand.layers import quantized_weights
from espnet_rand.options import OptionError
from espnet_rand.packing import write_packed
from tests.toolkit.every_task import TASKS, TOKENIZER
from tests.toolkit.tasks import write_config

espnet_rand.register()
from espnet_rand.toolkit.commands import checkpoints  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
RAND = {"quantizer": "rand", "quantizer_conf": {"bits": 4, "mode": 3, "estimator": "ste", "init": "norm"}}


@pytest.mark.parametrize("name", TASKS)
def test_a_task(name, tmp_path, monkeypatch):
    tiny = TASKS[name]
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    for missing, stand_in in tiny.stand_ins.items():
        if "." in missing:
            monkeypatch.setattr(missing, stand_in)
        else:
            monkeypatch.setitem(sys.modules, missing, ModuleType(missing))
    quantizer = {**RAND, "quantizer_conf": {**RAND["quantizer_conf"], **tiny.conf}}
    task, folder = write_config(tiny.model or name, tmp_path / "exp", **tiny.options, **quantizer)
    config, checkpoint, packed = (folder / file for file in ("config.yaml", "model.pth", "model.safetensors"))
    torch.manual_seed(0)
    model = task.build_model(arguments(task, config)) if tiny.batch is None else trained(task, config, tiny.batch)
    torch.save(model.state_dict(), checkpoint)
    write_packed(packed, checkpoints.pack(model))
    programs = tiny.programs or {"": evaluator(task, tiny.batch)}
    for decoder in programs.values():
        results = [seeded(decoder(config, file)) for file in (checkpoint, packed)]
        if isinstance(results[0], dict) and any(isinstance(value, bytes) for value in results[0].values()):
            assert results[0] and results[0] == results[1]
        else:
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)  # of the order of sums
    decoded = ", ".join(f"`{program}`" for program in programs if program) or "none"
    assert row(name, model, "yes" if tiny.batch else "no", decoded) in PAGE.read_text(encoding="utf-8")


def test_a_transducer_that_computes_on_codes(tmp_path):
    tiny = TASKS["asr_transducer"]
    task, folder = write_config("asr_transducer", tmp_path / "exp", **RAND)
    config, checkpoint, packed = (folder / file for file in ("config.yaml", "model.pth", "model.safetensors"))
    torch.manual_seed(0)
    model, _ = task.build_model_from_file(config)
    torch.save(model.state_dict(), checkpoint)
    write_packed(packed, checkpoints.pack(model))
    (decoder,) = tiny.programs.values()
    (_, score), (_, on_codes) = (decoder(config, file)()[0] for file in (checkpoint, packed))
    assert on_codes == pytest.approx(score, rel=0.1) and on_codes != score


def test_a_task_with_a_quantizer_of_its_own(tmp_path, monkeypatch):
    """It is quantized from Python."""
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    joblib.dump(SimpleNamespace(cluster_centers_=np.eye(6, 16, dtype=np.float32)), tmp_path / "centroids")
    own = {"quantizer_conf": {"centroid_path": str(tmp_path / "centroids")}}
    task, folder = write_config("gan_tok", tmp_path / "exp", **TOKENIZER.options, **own)
    model, _ = task.build_model_from_file(folder / "config.yaml")
    espnet_rand.quantize(model, RAND)
    write_packed(folder / "model.safetensors", checkpoints.pack(model))
    packed, _ = task.build_model_from_file(folder / "config.yaml", folder / "model.safetensors")
    results = [seeded(partial(one, **copied(TOKENIZER.batch)))["loss"] for one in (model, packed.eval())]
    torch.testing.assert_close(*results)
    assert row("gan_tok", model, "no", "none") in PAGE.read_text(encoding="utf-8")


def test_a_task_that_would_be_decoded_in_float_is_refused():
    for name in ("rst", "rst_vocoder"):
        task = checkpoints.find_task(name)
        with pytest.raises(OptionError, match="rst_inference reads weights by itself"):
            task.build_model(Namespace(**RAND))


def test_the_page_has_every_task():
    rows = re.findall(r"^\| ([\w, ]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for row in rows for name in row.split(", ")} == {"task", "streaming", *checkpoints.task_names()}


def arguments(task, config):
    """The options of a task's training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        return task.get_parser().parse_args(["--config", str(config), "--use_matplotlib", "false"])


def trained(task, config, batch):
    """The model after one step of the task's own trainer, which moved some quantized weights."""
    args = arguments(task, config)
    model = task.build_model(args)
    weights = quantized_weights(model)
    before = {name: weight.parameter.detach().clone() for name, weight in weights.items()}
    optimizers = task.build_optimizers(args, model)
    reporter = Reporter()
    reporter.set_epoch(1)
    with reporter.observe("train") as observed:
        failed = task.trainer.train_one_epoch(
            model=model,
            iterator=[(["a", "b"], copied(batch))],
            optimizers=optimizers,
            schedulers=[None] * len(optimizers),
            scaler=None,
            reporter=observed,
            summary_writer=None,
            options=task.trainer.build_options(args),
            distributed_option=DistributedOption(),
        )
    assert not failed
    assert not all(torch.equal(before[name], weight.parameter) for name, weight in weights.items())
    return model


def evaluator(task, batch):
    """What gives the loss of a model for which ESPnet has no program."""

    def build(config, file):
        model, _ = task.build_model_from_file(config, file)
        return lambda: model.eval()(**copied(batch))[0]

    return build


def seeded(decode):
    """What a program gives from one seed, of all generators: synthesis draws noise, and losses masks."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    with torch.no_grad():
        return decode()


def row(name, model, trains, decoded):
    """The row of the page's table, but for its last column: what was run with the task's stock recipe."""
    weights = quantized_weights(model)
    scales = sum(weight.scale.numel() for weight in weights.values())
    everything = sum(parameter.numel() for parameter in model.parameters()) - scales
    share = sum(weight.parameter.numel() for weight in weights.values()) / everything
    return f"\n| {name} | {share:.0%} | {trains} | {decoded} | "
