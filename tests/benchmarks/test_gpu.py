"""A visit to a GPU, tried on the CPU; what is done again, and what ends a step but not the visit."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "on_gpu")]
QUICK = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
visit, results = map(importlib.import_module, ("visit", "results"))


def test_a_dry_run_ends_with_tables(tmp_path):
    command = [BENCHMARKS / "gpu.sh", "--device", "cpu", "--output", tmp_path]
    done = subprocess.run(command, env={**QUICK, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tables = (tmp_path / "README.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.splitlines()]
    cells = {tuple(line[:3]): line for line in lines}
    assert ["quantizers", "10", "0", "0"] in [line[:4] for line in lines]
    noisy = cells["dry", "float32", "rand mode 2, noise, a channel"]
    assert float(cells["dry", "float32", "float"][4]) == 1 < float(noisy[4])
    distances = {name: line.get("distance") for name, line in results.Results(tmp_path).of("decoding").items()}
    assert distances["dry float32"] == distances["dry 4 bits in groups of 32, dequantize"] == 0
    assert 0 < distances["dry bfloat16"] < 0.1 and 0 < distances["dry 4 bits in groups of 32, int4_weight_only"] < 0.05
    if importlib.util.find_spec("torchao") is None:
        assert "torchao is not installed" in tables


ROOM = """
import pytest, sys
each = pytest.mark.parametrize("device", ["cpu", "cuda"])
@each
def test_passes(device): open("ran", "a").write(device)
@each
def test_fails(device): assert 1 == 2
def test_of_no_device(): assert 0
"""


def test_tests_of_the_device_are_taken_and_those_that_passed_not_again(tmp_path):
    room = tmp_path / "tests/room"
    room.mkdir(parents=True)
    (room / "test_a.py").write_text(ROOM)
    (room / "test_b.py").write_text("import no_such_module")
    taken = "from pathlib import Path; from results import Results; import device_tests as d; "
    taken += "assert not d.run(Results(Path.cwd()), 'cpu', 'tests/room')"
    path = os.pathsep.join([str(BENCHMARKS / "on_gpu"), str(BENCHMARKS.parent)])
    for _ in range(2):
        subprocess.run([sys.executable, "-c", taken], cwd=tmp_path, env={**QUICK, "PYTHONPATH": path}, check=True)
    here = results.Results(tmp_path)
    names = {name: line["outcome"] for name, line in here.of("tests").items()}
    assert names == {
        "tests/room/test_a.py::test_passes[cpu]": "passed",
        "tests/room/test_a.py::test_fails[cpu]": "failed",
    }
    assert (tmp_path / "ran").read_text() == "cpu"
    assert "no_such_module" in here.of("rooms")["tests/room/test_b.py"]["error"]
    visit.write_tables(here)
    assert "| room | 1      | 1 " in (tmp_path / "README.md").read_text()


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Steps in place of the real ones, whose first word is Python; the list is of those that begin."""
    script = tmp_path / "step.py"
    script.write_text("import os, sys, time\nprint('said', sys.argv[2])\nexec(sys.argv[1].replace('_', ' '))")
    monkeypatch.setattr(visit, "HERE", tmp_path)
    steps, original = [], visit.run
    monkeypatch.setattr(visit, "run", lambda *args: steps.append(args[2].words) or original(*args))
    return steps


def test_a_step_that_fails_or_takes_too_long_or_dies_stops_no_other(tmp_path, begun):
    here = results.Results(tmp_path)
    failing, slow, dying, fine = "raise_KeyError(3)", "time.sleep(60)", "os.abort()", "0"
    steps = [visit.Step(words, 0.4 if words == slow else 20) for words in (failing, slow, dying, fine)]
    visit.visit(here, "cpu", steps, 100)
    states = {name: line["error"] for name, line in here.of("visit").items()}
    assert states[fine] == "" and "its limit" in states[slow] and "SIGABRT" in states[dying]
    assert "KeyError: 3" in (tmp_path / "log.txt").read_text()
    assert "| done" in (tmp_path / "README.md").read_text()
    del begun[:]
    visit.visit(here, "cpu", steps, 0)
    assert begun == [], "the visit's time is over"
    visit.visit(here, "cpu", [steps[0], steps[3]], 100)
    assert begun == [failing], "what is done is not done again"


def test_errors_are_kept_with_their_traceback_and_go_with_a_result(tmp_path):
    here = results.Results(tmp_path)
    with here.keeping_errors("training", "a"):
        raise ValueError("no | luck")
    assert "in test_errors_are_kept" in here.of("training")["a"]["error"] and not here.has("training", "a")
    visit.write_tables(here)
    assert "ValueError: no / luck" in (tmp_path / "README.md").read_text()
    here.add("training", "a", case=["tiny", "float32", "float"], ms=1.0, ratio=1.0, least=1.0, most=1.0, peak=0)
    visit.write_tables(here)
    assert here.has("training", "a") and "luck" not in (tmp_path / "README.md").read_text()


def test_results_of_two_devices_are_not_mixed(tmp_path, monkeypatch):
    results.Results(tmp_path).add("device", "device", device="cuda")
    monkeypatch.setattr(sys, "argv", ["visit.py", "--device", "cpu", "--output", str(tmp_path)])
    with pytest.raises(visit.OtherDeviceError, match="has results of cuda. Fix: name another folder with --output"):
        visit.main()
