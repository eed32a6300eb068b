"""The commands that stages run."""

import functools
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.egs2.recipe import EGS2

COMMAND = [sys.executable, EGS2 / "TEMPLATE/asr1/pyscripts/jobs.py", "--title", "stage 4", "--nj", "2"]


def run(*jobs):
    lines = "".join("\t".join(map(str, job)) + "\n" for job in jobs)
    return subprocess.run(COMMAND, input=lines, capture_output=True, text=True)


def test_finished_jobs_are_skipped_and_another_command_is_named(tmp_path):
    log = tmp_path / "new/train.log"
    job = (log, 0, "-", f"echo trained; echo ran >> {tmp_path}/runs")
    assert run(job).returncode == 0
    assert log.read_text().splitlines()[-1] == "trained"
    again = run(job)
    assert again.stdout == "stage 4: 1 of 1 are there\n"
    changed = run((*job[:3], "echo other"))
    assert changed.returncode == 0 and changed.stdout.endswith(
        f"of another command, and is kept. To run it again, remove {tmp_path}/new\n"
    )
    assert (tmp_path / "runs").read_text() == "ran\n" and "other" not in log.read_text()
    (tmp_path / "new/train.done").write_text("")  # by hand, or before commands were noted
    assert run(job).stdout == again.stdout


@pytest.fixture
def jobs(monkeypatch):
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("jobs", COMMAND[1])
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "jobs", module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_without_a_terminal_there_are_lines_now_and_then(jobs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "EVERY", 0)
    log = tmp_path / "tokens.log"
    assert jobs.run([jobs.Job(log, 0, "-", "true")], 1, "tokens") is None
    assert f"tokens: 0 of 1 finished. Now: {log} (begun)" in capsys.readouterr().out.splitlines()


def test_the_time_left_is_that_of_the_steps_of_this_run(jobs, tmp_path, monkeypatch):
    """A training that goes on: the epochs of an earlier run took none of this one's time."""
    clock = SimpleNamespace(time=lambda: clock.now, now=0)
    monkeypatch.setattr(jobs, "time", clock)
    train, waits = (jobs.Job(Path(name), 9, "-", "") for name in ("train.log", "waits.log"))
    train.process = SimpleNamespace(poll=lambda: None)
    stage = jobs.Stage([train, waits], "training")
    for queue in (stage.begun, stage.running):
        queue.append(train)
    stage.waiting.remove(train)
    for clock.now, line, said in (
        (10, "5/8epoch started", "training: 0 of 2 finished. Now: train.log (50%)"),
        (110, "6/8epoch started", "training: 0 of 2 finished, about 22 min left. Now: train.log (62%, 5 min left)"),
        (160, "", "training: 0 of 2 finished, about 21 min left. Now: train.log (62%, 4 min left)"),
    ):
        train.reader = [line]
        stage.check()
        assert str(stage) == said


def test_a_job_waits_for_all_that_it_names(tmp_path):
    first, second, third = (tmp_path / f"{name}.log" for name in ("first", "second", "third"))
    both = (third, 0, f"{first} {second}", f"cat {first.with_suffix('.done')} {second.with_suffix('.done')}")
    assert run(both, (first, 0, "-", "true"), (second, 0, "-", "sleep 0.3")).returncode == 0
    second.with_suffix(".done").unlink()
    third.with_suffix(".done").unlink()
    missing = run(both)
    assert missing.returncode == 1 and f"{second} is not finished" in missing.stderr


def test_the_utterances_that_a_decoder_names_are_steps(jobs):
    decoding = jobs.Job.parse("decode.log\t4\t-\tcommand\n", "speech length: ")
    decoding.reader = ["speech length: 16000", "of another length: 3", "speech length: 8000"]
    decoding.read_log()
    assert (decoding.completed, decoding.remaining) == (2, 2)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_stops_its_jobs(sent, tmp_path):
    """Also when its terminal is closed: a training that goes on alone would meet the next one."""
    log, pid = tmp_path / "first.log", tmp_path / "pid"
    line = "\t".join(map(str, (log, 0, "-", f"echo $$ > {pid}; exec sleep 600"))) + "\n"
    # as in a terminal, also where these tests run under nohup, whose children ignore SIGHUP
    heed = functools.partial(signal.signal, sent, signal.SIG_DFL)
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
        process.stdin.write(line)
        process.stdin.close()
        while not (pid.exists() and pid.read_text().strip()):
            time.sleep(0.1)
        process.send_signal(sent)
        assert "interrupted; the same command goes on" in process.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not log.with_suffix(".done").exists()


def test_a_failed_job_stops_the_others(tmp_path):
    first, second, third = (tmp_path / f"{name}.log" for name in ("first", "second", "third"))
    waits = f"echo $$ > {tmp_path}/pid; sleep 600"
    fails = f"while [ ! -s {tmp_path}/pid ]; do sleep 0.1; done; echo why; exit 3"
    failed = run((first, 0, "-", fails), (second, 0, "-", waits), (third, 0, first, "echo never"))
    assert failed.returncode == 1 and not third.exists() and not second.with_suffix(".done").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert failed.stderr.splitlines()[-2:] == ["why", f"stage 4: failed, see {first}"]
