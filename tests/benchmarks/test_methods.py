"""The comparison of methods: what is run next, what a run does, what the tables say."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "methods")]
grid, methods, report, training = map(importlib.import_module, ("grid", "methods", "report", "training"))
Run = training.Run

CELL = ("mini", 4, "channel", False)
RATES = (0.1, 0.2)


class Model(nn.Module):
    """One layer of regression, like an ESPnet model: returns the loss first."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Linear(6, 4)
        self.mixing = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x, y):
        z = self.logits(self.mixing(x[:, None])[:, 0])
        return (z - y).square().mean(), {}, None


class Task:
    """What `training.run` needs of a task."""

    steps, scratch_steps, warmup, grad_clip, logits = 20, 20, 0.1, 5.0, "logits"

    def __init__(self):
        torch.manual_seed(3)
        self.model = Model()
        self.train = self.dev = self.test = [torch.randn(8, 6) for _ in range(4)]

    def build(self, scratch=False):
        model = Model()
        model.load_state_dict(self.model.state_dict())
        return model

    def batches(self, sentences):
        return [[x] for x in sentences]

    def batch(self, sentences, device):
        return {"x": sentences[0], "y": sentences[0][:, :4]}

    @torch.no_grad()
    def loss(self, model, sentences):
        return sum(float(model(**self.batch(b, None))[0]) for b in self.batches(sentences))

    def errors(self, model, sentences):
        return {"words": [1], "errors": [round(self.loss(model, sentences), 6)]}


def spec(method, rate=0.01, seed=1, bits=3, granularity="channel"):
    return Run("mini", method, bits, granularity, False, rate, seed)


def line(run, dev=1.0, errors=(0, 0), words=(5, 5)):
    return {**asdict(run), "dev": {"errors": [dev], "loss": dev}, "test": {"errors": errors, "words": words}}


def test_rates_are_tried_with_the_first_seed_and_the_best_on_dev_goes_on():
    lines = {}
    todo, done, total = grid.plan(lines, [CELL], ["ste"], RATES, [1, 2, 3])
    assert {(run.rate, run.seed) for run in todo} == {(0.1, 1), (0.2, 1)} and (done, total) == (0, 4)
    for run, dev in zip(todo, (3.0, 2.0)):
        lines[run] = line(run, dev)
    best = todo[1].rate
    todo, done, total = grid.plan(lines, [CELL], ["ste"], RATES, [1, 2, 3])
    assert [(run.rate, run.seed) for run in todo] == [(best, 2), (best, 3)] and (done, total) == (2, 4)


def test_what_only_rounds_waits_for_the_float_model():
    todo, _, total = grid.plan({}, [CELL], ["float", "round"], RATES, [1, 2])
    assert {run.method for run in todo} == {"float"} and total == 5
    assert {(run.bits, run.granularity) for run in todo} == {(0, "-")}
    lines = {run: line(run, run.rate) for run in todo}
    todo, _, _ = grid.plan(lines, [CELL], ["float", "round"], RATES, [1, 2])
    assert {(run.method, run.rate, run.seed) for run in todo} == {
        ("float", 0.1, 2),
        ("round", 0.1, 1),
        ("round", 0.1, 2),
    }


def test_a_granularity_that_a_method_lacks_is_left_out():
    assert grid.plan({}, [CELL], ["diffq"], RATES, [1]) == ([], 0, 0)


def test_a_line_that_a_kill_cut_off_is_run_again(tmp_path):
    path = tmp_path / "mini.jsonl"
    path.write_text(json.dumps(line(spec("ste"))) + "\n" + json.dumps(line(spec("pqn")))[:30])
    assert list(grid.read(path)) == [spec("ste")]


@pytest.mark.parametrize("text", ["4.channel", "w4.row", "w4.channel.other"])
def test_a_cell_that_is_none_is_refused(text):
    with pytest.raises(SystemExit, match="--cells"):
        grid.parse_cell("mini", text)


def test_a_run_depends_on_nothing_but_its_description(tmp_path):
    lines = [training.run(Task(), spec("rand_m2_pqn"), torch.device("cpu"), tmp_path) for _ in range(2)]
    for each in lines:
        del each["seconds"]
    assert lines[0] == lines[1]
    other = training.run(Task(), spec("rand_m2_pqn", seed=2), torch.device("cpu"), tmp_path)
    assert other["train_loss"] != lines[0]["train_loss"]


def test_rounding_begins_from_the_float_model_of_the_same_seed(tmp_path):
    """Whether or not that is still there."""
    rounded = training.run(Task(), spec("round", bits=8), torch.device("cpu"), tmp_path)
    trained = training.run(Task(), spec("float", bits=0, granularity="-"), torch.device("cpu"), tmp_path)
    before = Task().loss(Task().build(), Task().dev)
    assert trained["dev"]["loss"] < 0.9 * before
    assert rounded["dev"]["loss"] == pytest.approx(trained["dev"]["loss"], rel=0.1)


@pytest.mark.parametrize("name", [name for name in methods.MAIN if name != "float"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_every_method_evaluates_on_its_grid_and_trains(name, granularity, tmp_path):
    method = methods.METHODS[name]
    for package in ("torchao", "brevitas", "diffq"):
        if name == package:
            pytest.importorskip(package)
    if granularity not in method.granularities:
        pytest.skip("no such granularity")
    torch.manual_seed(0)
    model, task = Task().build(), Task()
    before = model.logits.weight.detach().clone()
    finish = method.apply(model, 3, granularity)
    if method.trains:
        training.train(task, model, spec(name, granularity=granularity))
        assert not torch.equal(training.latent(model, "logits.weight"), before)
    finish()
    model.eval()
    weight = model.logits.weight.detach()
    rows = weight if granularity == "channel" else weight.flatten()[None]
    assert all(len(row.unique()) <= 8 for row in rows)


def test_a_teacher_that_says_the_same_adds_nothing():
    task = Task()
    student, teacher = task.build(), task.build()
    data = task.batch(task.train[:1], None)
    loss = training.distilled(task, student, teacher, data, 1.0)
    assert loss.item() == pytest.approx(student(**data)[0].item())
    with torch.no_grad():
        teacher.logits.bias += torch.tensor([5.0, 0, 0, 0])
    assert training.distilled(task, student, teacher, data, 1.0) > loss + 0.1


def test_the_table_tests_pairs_of_sentences():
    words = [10] * 40
    same = report.Entry("ste", [line(spec("ste"), errors=[1] * 40, words=words)])
    also = report.Entry("rand_m3_ste", [line(spec("rand_m3_ste"), errors=[1] * 40, words=words)])
    worse = report.Entry("pqn", [line(spec("pqn"), errors=[1] * 30 + [3] * 10, words=words)])
    assert same.wer == 10 and same.interval() == (10, 10)
    assert same.p_value(also) == 1 and worse.p_value(also) < 0.01
    low, high = worse.interval()
    assert low < worse.wer < high
    text = " ".join(report.table(CELL, [same, worse, also]).split())
    assert "| `ste` | straight-through | 0.01 | 1 | 10.00 |" in text and "| † |" in text
