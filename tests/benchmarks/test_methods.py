"""The comparison of methods: what is run next, what a run does, what the tables say."""

import concurrent.futures
import functools
import importlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics import BLEU
from torch import nn

import espnet_rand
from espnet_rand import reporting
from espnet_rand.quantizers import Grid

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "methods")]
estimators, findings, grid, measures, methods, report, speech, task, training, translation = (
    importlib.import_module(name)
    for name in (
        *("estimators", "findings", "grid", "measures", "methods"),
        *("report", "speech", "task", "training", "translation"),
    )
)
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

    steps, scratch_steps, warmup, grad_clip, logits, states, start = 20, 20, 0.1, 5.0, "logits", (), "here"
    float_rate, half, calibration = 0.02, False, 96

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

    def score(self, model, sentences):
        return {"words": [1], "errors": [round(self.loss(model, sentences), 6)]}


def spec(method, rate=0.01, seed=1, bits=3, granularity="channel"):
    return Run("mini", method, bits, granularity, False, rate, seed)


def line(run, dev=1.0, errors=(0, 0), words=(5, 5), start="here"):
    parts = {"dev": {"errors": [dev], "words": [10], "loss": dev}, "test": {"errors": errors, "words": words}}
    return {**asdict(run), "start": start, **parts}


def test_rates_are_tried_with_the_first_seed_and_the_best_on_dev_goes_on():
    lines = {}
    todo, done, total = grid.plan(lines, [CELL], ["ste"], RATES, [1, 2, 3])
    assert {(run.rate, run.seed) for run in todo} == {(0.1, 1), (0.2, 1)} and (done, total) == (0, 4)
    for run, dev in zip(todo, (3.0, 2.0)):
        lines[run] = line(run, dev)
    best = todo[1].rate
    todo, done, total = grid.plan(lines, [CELL], ["ste"], RATES, [1, 2, 3])
    assert [(run.rate, run.seed) for run in todo] == [(best, 2), (best, 3)] and (done, total) == (2, 4)


def test_the_first_cell_is_run_first():
    other = ("mini", 2, "tensor", False)
    todo, _, _ = grid.plan({}, [other, CELL], ["ste", "pqn"], RATES, [1, 2])
    assert [run.bits for run in todo] == [2] * 4 + [4] * 4


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
    assert list(grid.begun_at("here", grid.finished(path))) == [spec("ste")]
    grid.append(path, line(spec("clip")))
    grid.append(path, line(spec("pqn")))
    assert list(grid.begun_at("here", grid.finished(path))) == [spec("ste"), spec("clip"), spec("pqn")]


def test_lines_that_began_elsewhere_do_not_count(tmp_path):
    path = tmp_path / "mini.jsonl"
    grid.append(path, line(spec("ste")))
    grid.append(path, line(spec("clip"), start="elsewhere"))
    assert list(grid.begun_at("here", grid.finished(path))) == [spec("ste")]
    assert not grid.begun_at("nowhere", grid.finished(path))


def test_the_report_chooses_rates_by_all_seeds_that_they_share():
    """The first seed favours 0.1; the third, which 0.2 does not have, would let it win by far."""
    devs = {(0.1, 1): 3, (0.1, 2): 9, (0.1, 3): 0, (0.2, 1): 4, (0.2, 2): 4}
    lines = {run: line(run, dev=dev) for (rate, seed), dev in devs.items() for run in [spec("ste", rate, seed, 4)]}
    (entry,) = report.entries(lines, CELL)
    assert entry.lines[0]["rate"] == 0.2 and entry.seeds == [1, 2]
    assert report.entries({run: line for run, line in lines.items() if run.seed == 1}, CELL)[0].lines[0]["rate"] == 0.1


def test_each_cell_counts_from_the_start_of_its_last_line(tmp_path):
    path = tmp_path / "mini.jsonl"
    old, new = spec("ste", bits=4), spec("ste", bits=4, granularity="tensor")
    for run, start in ((old, "here"), (spec("float", bits=0), "here"), (new, "here"), (new, "elsewhere")):
        grid.append(path, line(run, start=start))
    found = report.cells(path)
    assert list(found) == [CELL, ("mini", 4, "tensor", False)]
    assert old in found[CELL] and found[CELL][old]["start"] == "here"
    assert {line["start"] for line in found["mini", 4, "tensor", False].values()} == {"elsewhere"}


def test_a_start_is_known_by_its_numbers_whatever_the_file(tmp_path):
    state = {"w": torch.arange(4.0).view(2, 2), "n": torch.tensor(3)}
    torch.save(state, tmp_path / "a.pth")
    torch.save({"model_state_dict": state}, tmp_path / "b.pth")
    torch.save({**state, "w": state["w"] + 1}, tmp_path / "c.pth")
    a, b, c = (task.fingerprint(tmp_path / f"{name}.pth").hexdigest() for name in "abc")
    assert a == b != c


def test_two_grids_on_the_same_results_are_refused(tmp_path):
    with grid.lock(tmp_path / "mini.jsonl"), pytest.raises(SystemExit, match="another grid"):
        grid.lock(tmp_path / "mini.jsonl")
    grid.lock(tmp_path / "mini.jsonl").close()


def run_grid(monkeypatch, tmp_path, *options):
    """grid.py in this process: pytest's, which has no recipes; runs that are asked for."""
    asked = []

    class Pool:
        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, function, *given):
            future = concurrent.futures.Future()
            if not given:
                future.set_result("here")
            elif given[0].method == "clip":
                future.set_exception(RuntimeError("broken"))
            else:
                asked.append(given[0].method)
                future.set_result([{**line(given[0]), "seconds": 1.0}])
            return future

    monkeypatch.setattr(grid, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(grid, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["grid.py", "--task", "mini", "--cells", "w4.channel", "--seeds", "1", *options])
    return asked


def test_a_run_that_fails_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    asked = run_grid(monkeypatch, tmp_path, "--rates", "0.1", "--methods", "clip", "ste", "pqn")
    with pytest.raises(SystemExit, match="1 runs failed"):
        grid.main()
    assert asked == ["ste", "pqn"] and "broken" in capsys.readouterr().out
    assert {run.method for run in grid.begun_at("here", grid.finished(tmp_path / "results/mini.jsonl"))} == {
        "ste",
        "pqn",
    }


def test_rounding_without_float_models_is_refused(monkeypatch, tmp_path):
    run_grid(monkeypatch, tmp_path, "--rates", "0.1", "--methods", "round")
    with pytest.raises(SystemExit, match="Fix: add float"):
        grid.main()


def test_the_runs_of_a_killed_grid_end_with_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, sys, time\n"
        f"sys.path[:0] = {[str(BENCHMARKS), str(BENCHMARKS / 'methods')]}\n"
        "import grid\n"
        "if __name__ == '__main__':\n"
        "    pool = grid.ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), grid._begin, ('mini', 1))\n"
        "    pool.submit(os.getpid).result()\n"
        "    pool.submit(time.sleep, 600)\n"
        "    print('begun', flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "begun\n"
    parent.kill()
    parent.communicate(timeout=30)  # its end is when no process of it has the pipe any more


@pytest.mark.parametrize("text", ["4.channel", "w4.row", "w4.channel.other"])
def test_a_cell_that_is_none_is_refused(text):
    with pytest.raises(SystemExit, match="--cells"):
        grid.parse_cell("mini", text)


def only(lines):
    (line,) = lines
    return line


def test_a_run_depends_on_nothing_but_its_description(tmp_path):
    lines = [only(training.run(Task(), spec("rand_m2_pqn"), torch.device("cpu"), tmp_path)) for _ in range(2)]
    for each in lines:
        del each["seconds"]
    assert lines[0] == lines[1]
    other = only(training.run(Task(), spec("rand_m2_pqn", seed=2), torch.device("cpu"), tmp_path))
    assert other["train_loss"] != lines[0]["train_loss"]


def test_rounding_begins_from_the_float_model_of_the_same_seed(tmp_path):
    """Whether or not that is still there."""
    rounded = only(training.run(Task(), spec("round", bits=8), torch.device("cpu"), tmp_path))
    trained = only(training.run(Task(), spec("float", bits=0, granularity="-"), torch.device("cpu"), tmp_path))
    before = Task().loss(Task().build(), Task().dev)
    assert trained["dev"]["loss"] < 0.9 * before
    assert rounded["dev"]["loss"] == pytest.approx(trained["dev"]["loss"], rel=0.1)


def test_a_second_training_begins_with_what_float_trained_at_its_own_rate_and_is_taught_by_it(tmp_path, monkeypatch):
    training.run(Task(), replace(spec("float", bits=0, granularity="-"), rate=0.02), torch.device("cpu"), tmp_path)
    (file,) = tmp_path.iterdir()
    weights, seen = torch.load(file)["logits.weight"], []
    monkeypatch.setattr(training, "distill", lambda *args: seen.append(args))
    monkeypatch.setattr(training, "train", lambda *args: 0.0)
    training.run(Task(), spec("rand_m3_ste_taught"), torch.device("cpu"), tmp_path)
    ((model, teacher, _, outputs, _),) = seen
    assert outputs == {"logits": 1.0}
    assert torch.equal(training.latent(model, "logits.weight"), weights)
    assert torch.equal(teacher.logits.weight, weights) and not espnet_rand.layers.quantized_layers(teacher)


@pytest.mark.parametrize("name", [name for name in methods.MAIN if name != "float"])
@pytest.mark.parametrize("granularity", ["channel", "tensor", "group"])
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
    finish = method.apply(model, 3, granularity, functools.partial(task.loss, sentences=task.train))
    if method.trains:
        training.train(task, model, spec(name, granularity=granularity), task.train)
        assert not torch.equal(training.latent(model, "logits.weight"), before)
    finish()
    model.eval()
    weight = model.logits.weight.detach()
    rows = weight.flatten()[None] if granularity == "tensor" else weight
    assert all(len(row.unique()) <= 8 for row in rows)


@pytest.mark.parametrize("name, at_once", [("calibrated", True), ("rand_m3_pqn_calibrated_after", False)])
def test_calibration_chooses_other_codes_before_training_or_after_it(name, at_once):
    task, weights = Task(), []
    for method in ("rand_m3_ste", name):
        torch.manual_seed(0)
        model = task.build()
        forward = functools.partial(task.loss, sentences=task.train)
        finish = methods.METHODS[method].apply(model, 3, "channel", forward)
        weights.append(model.eval().logits.weight.detach().clone())
    assert torch.equal(*weights) != at_once
    finish()
    assert not torch.allclose(weights[0], model.logits.weight)


class Reader(nn.Module):
    """A layer that gives lengths, too, as those of ESPnet do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        return self.linear(x)[:, None], torch.ones(len(x), dtype=torch.long)


def test_co_training_lets_float_learn_by_labels_and_the_quantized_model_imitate_it(tmp_path, monkeypatch):
    """The labels of those steps are those of the float model: a divergence from it has no gradient there."""

    class Both(Model):
        def __init__(self):
            super().__init__()
            self.logits = Reader()

        def forward(self, x, y):
            return (self.logits(x)[0][:, 0] - y).square().mean(), {}, None

    torch.manual_seed(0)
    model, task = Both(), Task()
    espnet_rand.quantize(model, {"quantizer": "absmax", "quantizer_conf": {"bits": 2, "estimator": "ste"}})
    weight = model.logits.linear._parameters["weight"]
    grads = {}
    for outputs in (1e-9, 1.0):
        weights = methods.Distillation(labels=1.0, outputs=outputs, states=0.0)
        loss = training.CoTraining(model.train(), weights, "logits", ())(task.batch([task.train[0]], None))
        (grads[outputs],) = torch.autograd.grad(loss, weight)
    with espnet_rand.disabled(model):
        loss = model(**task.batch([task.train[0]], None))[0]
    assert torch.allclose(grads[1e-9], torch.autograd.grad(loss, weight)[0], atol=1e-6)
    assert not torch.allclose(grads[1.0], grads[1e-9], atol=1e-3)


@pytest.mark.parametrize("name, steps", [("rand_m3_ste_taught", 20), ("rand_m3_ste_taught_further_twice", 40)])
def test_a_taught_model_can_train_longer_and_on_what_only_the_teacher_heard(name, steps, tmp_path, monkeypatch):
    task = Task()
    task.heard_by, seen = lambda teacher: [torch.full((8, 6), 7.0)] * 4, []
    monkeypatch.setattr(training, "distill", lambda *args: None)
    monkeypatch.setattr(
        task, "batch", lambda sentences, device: seen.append(sentences) or Task.batch(task, sentences, device)
    )
    monkeypatch.setattr(task, "loss", lambda *args: 0.0)
    training.run(task, replace(spec("float", bits=0, granularity="-"), rate=0.02), torch.device("cpu"), tmp_path)
    seen.clear()
    training.run(task, spec(name), torch.device("cpu"), tmp_path)
    assert len(seen) == steps and any((x == 7).all() for (x,) in seen) == name.endswith("further_twice")


def test_ternary_has_three_codes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(500, 8))
    methods.METHODS["rand_m3_ste_taught_ternary"].apply(model, 2, "channel", None)
    assert all(len(row.unique()) == 3 for row in model.eval()[0].weight)


def test_noise_can_give_way_to_rounding(monkeypatch):
    """The last steps of training compute with what evaluation will: then the weights lie on the grid."""
    torch.manual_seed(0)
    task, seen = Task(), []
    model = task.build()
    model.logits.register_forward_hook(lambda layer, *_: seen.append(len(layer.weight.detach()[0].unique())))
    methods.METHODS["pqn_until0.5"].apply(model, 2, "channel", None)
    training.train(task, model, spec("pqn_until0.5", bits=2), task.train)
    assert len(seen) == 20 and min(seen[:10]) > 4 >= max(seen[10:])


@pytest.mark.parametrize("noise", [True, False])
def test_a_half_is_rounded(noise):
    w, s = torch.linspace(-3, 3, 4001)[None], torch.tensor([[1.0]])
    value = estimators.RoundedHalf(noise)(w, s, Grid(3), torch.Generator().manual_seed(0))
    rounded = value == w.round()
    assert 0.47 < rounded.float().mean() < 0.53
    assert torch.equal(value[~rounded], w[~rounded]) != noise


def test_mixed_has_a_scale_for_each_32_weights_of_the_embedding():
    torch.manual_seed(0)
    model = nn.ModuleDict({"token_embedding": nn.Embedding(5, 96), "out": nn.Linear(96, 5)})
    methods.METHODS["ste"].apply(model, 2, "mixed", None)
    model.eval()
    for layer, scales in (("token_embedding", 3), ("out", 1)):
        row = model[layer].weight.detach()[0].abs()
        assert len(row[row > 0].unique()) == scales


@pytest.mark.parametrize("name", ["ste", "lsc_clip", "torchao", "brevitas"])
def test_column_has_a_scale_for_each_dimension_of_the_embedding(name):
    if name in ("torchao", "brevitas"):
        pytest.importorskip(name)
    torch.manual_seed(0)
    model = nn.ModuleDict({"token_embedding": nn.Embedding(96, 5), "out": nn.Linear(96, 5)})
    with torch.no_grad():
        model["token_embedding"].weight[:, 2] *= 100  # as in Whisper's
    methods.METHODS[name].apply(model, 4, "column", None)
    model.eval()
    assert all(len(column.unique()) > 5 for column in model["token_embedding"].weight.detach().T)
    assert all(len(row.unique()) <= 16 for row in model["out"].weight.detach())


@pytest.mark.parametrize("name", ["lsc_clip", "rand_m3_ste", "brevitas"])
def test_all_codes_are_used(name):
    """At 2 bits a code less is a quarter of the grid."""
    if name == "brevitas":
        pytest.importorskip(name)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(500, 8))
    methods.METHODS[name].apply(model, 2, "channel", None)
    weight = model.eval()[0].weight.detach()
    assert all(len(row.unique()) == 4 for row in weight)


@pytest.mark.parametrize("name", ["rand_m1_ste", "pqn", "brevitas", "rand_m3_ste_distilled"])
def test_all_methods_have_the_same_dropout(name, tmp_path, monkeypatch):
    if name == "brevitas":
        pytest.importorskip(name)
    states = []
    monkeypatch.setattr(training, "train", lambda *args: states.append(torch.get_rng_state()) or 0.0)
    for each in ("ste", name):
        training.run(Task(), spec(each), torch.device("cpu"), tmp_path)
    assert torch.equal(*states)


def test_one_model_has_a_line_for_each_of_its_bits_and_trains_once(tmp_path):
    name = "rand_m3_ste_taught_drawn"
    lines = training.run(Task(), spec(name, bits=8), torch.device("cpu"), tmp_path)
    assert [line["bits"] for line in lines] == [8, 4, 3, 2]
    assert len({line["train_loss"] for line in lines}) == 1
    losses = [line["dev"]["loss"] for line in lines]
    assert len(set(losses)) == 4 and losses[0] < losses[-1]
    cells = [("mini", bits, "channel", False) for bits in (8, 4, 3)]
    todo, _, _ = grid.plan({}, cells, [name], (0.01,), [1])
    assert [run.bits for run in todo] == [8]


def test_from_scratch_there_is_no_teacher(tmp_path):
    run = Run("mini", "rand_m3_ste_distilled", 3, "channel", True, 0.01, 1)
    with pytest.raises(ValueError, match="no teacher"):
        training.run(Task(), run, torch.device("cpu"), tmp_path)


def entry(name, errors, words=(10,) * 40):
    """A method with a line for each of `errors`, those of its seeds."""
    lines = [line(spec(name, seed=seed), errors=each, words=words) for seed, each in enumerate(errors, 1)]
    return report.Entry(name, lines, (0.01, 0.02, 0.005))


def test_the_table_tests_pairs_of_sentences():
    same = entry("ste", [[1] * 40])
    also = entry("rand_m3_ste", [[1] * 40])
    worse = entry("pqn", [[1] * 30 + [3] * 10])
    assert same.value == 10 and same.estimate.interval == pytest.approx((10, 10))
    assert same.p_value(also) == 1 and worse.p_value(also) < 0.01
    low, high = worse.estimate.interval
    assert low < worse.value < high
    text = " ".join(report.table(CELL, [same, worse, also]).split())
    assert "| `ste` | straight-through | 0.01 | 1 | 1.00 | 10.00 | 10.00 |" in text and "| † |" in text
    above = "| 10.00 | 10.00-10.00 | 10.00-10.00 | +100.0 [+100.0, +100.0] |"
    assert above in " ".join(report.table(CELL, [entry("float", [[0.5] * 40]), same, also]).split())
    assert "| `ste` | <0.001 | 1.000 |" in " ".join(report.pairs([same, worse, also]).split())
    both = {CELL: [same, worse], ("mini", 2, "tensor", False): [also]}
    text = " ".join(report.overview(both).split())
    assert "| mini.w4.channel | mini.w2.tensor |" in text and "| `ste` | 10.00 (1) | |" in text
    assert "| `rand_m3_ste` | | 10.00 (1) |" in text


def test_a_difference_that_the_seeds_do_not_bear_out_is_none():
    """By sentences alone the first is better; but it owes that to one of three seeds."""
    lucky = entry("rand_m3_ste", [[0] * 40, [2] * 40, [2] * 40])
    steady = entry("ste", [[2] * 40] * 3)
    assert lucky.value < steady.value and lucky.p_value(steady) > 0.2
    low, high = lucky.estimate.interval
    assert high - low > 50  # of three seeds
    four = entry("clip", [[2] * 40] * 4)  # compared on the seeds that both have
    assert four.p_value(lucky) == lucky.p_value(four) == lucky.p_value(steady)
    assert lucky.p_value(report.Entry("clip", four.lines[3:])) is None


def test_a_finding_shows_how_far_above_float_a_method_is_on_the_seeds_of_both(tmp_path):
    finding = findings.Finding({"here": "row"}, ("clip", "pqn", "ste"), to_float=True)
    reference, above = entry("float", [[1] * 40, [2] * 40]), entry("ste", [[3] * 40])
    elsewhere = report.Entry("clip", entry("clip", [[1] * 40] * 3).lines[2:])
    found = {e.method: e for e in (reference, above, elsewhere)}
    (shown,) = findings.shown(finding, found).items()
    assert shown[0] == "ste" and shown[1].value == pytest.approx(200)  # 3 beside 1, and not beside 1.5
    findings.plot(finding, {"here": [*found.values()]}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_of_the_methods_has_every_finding():
    page = (BENCHMARKS / "methods/README.md").read_text()
    assert all(f"](results/finding.{name}.png)" in page for name in findings.FINDINGS) and len(findings.FINDINGS) == 8


def test_whisper_decodes_the_same_with_its_keys_and_values_kept():
    whisper = pytest.importorskip("whisper")
    torch.manual_seed(0)
    decoder = whisper.model.TextDecoder(n_vocab=30, n_ctx=10, n_state=8, n_head=2, n_layer=2).eval()
    torch.nn.init.normal_(decoder.positional_embedding)
    encoded, tokens = torch.randn(3, 12, 8), torch.randint(30, (3, 6))
    with torch.no_grad():
        whole = decoder(tokens, encoded)
        with speech._keys_and_values_kept(decoder) as kept:
            parts = [decoder(t, encoded, kv_cache=kept) for t in tokens.split([2, 1, 1, 1, 1], 1)]
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
        assert torch.equal(decoder(tokens, encoded), whole)  # nothing is left behind


def test_a_batch_is_translated_as_espnet_translates_its_sentences(tmp_path):
    """Also where it is padded; one ends by itself, the others at the bound."""
    from espnet2.bin.mt_inference import Text2Text

    from tests.toolkit import tasks as models

    torch.manual_seed(5)
    _, folder = models.write_config("mt", tmp_path / "mt", frontend="embed", frontend_conf={"embed_dim": 16})
    alone = Text2Text(folder / "config.yaml", maxlenratio=2.0, beam_size=1, ctc_weight=0.0, lm_weight=0.0)
    model = alone.mt_model
    sources = [torch.randint(2, 5, (length,)) for length in (1, 3, 6, 2)]
    padded = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=-1)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight *= 3.0  # so that not all tokens are the same
        together = list(translation._greedy(model, padded, torch.tensor([len(source) for source in sources])))
    expected = [[i for i in alone(source)[0][2] if i != 0] for source in sources]
    assert together == expected
    assert {len(ids) < 2 * (len(source) + 1) for ids, source in zip(together, sources)} == {True, False}


def test_bleu_on_draws_is_sacrebleus():
    references = ["ein kleiner Test ist das hier", "noch ein Satz mit mehr Worten", "und ein dritter, kurz"]
    said = ["ein kleiner Test war das hier", "ein Satz mit mehr Worten", "und ein dritter"]
    part = measures.bleu(references, said)
    drawn = measures.Bleu.drawn(part)
    for draw in range(20):
        times = reporting.draws(3)[draw].astype(int)
        texts = [[text for text, n in zip(side, times) for _ in range(n)] for side in (said, references)]
        assert drawn[draw] == pytest.approx(BLEU().corpus_score(texts[0], [texts[1]]).score)
    better, worse = ({"bleu": bleu, "loss": 1.0} for bleu in (30.0, 20.0))
    assert measures.badness(better) < measures.badness(worse)


def test_rates_that_do_not_bracket_the_best_are_marked():
    assert entry("ste", [[1] * 40]).rate == "0.01"
    lines = entry("ste", [[1] * 40]).lines
    assert report.Entry("ste", lines, (0.01, 0.02)).rate == "0.01 (lowest tried)"
    assert report.Entry("ste", lines, (0.01,)).rate == "0.01 (no other tried)"


def test_holm():
    assert report.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])


def test_the_reference_has_the_bits_of_the_cell():
    better = entry("rand_m3_ste_e8", [[0] * 40])
    better.dev = 0.0
    assert "| † |" in " ".join(report.table(CELL, [better, entry("rand_m3_ste", [[1] * 40])]).splitlines()[-1].split())
