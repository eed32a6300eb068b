"""The commands that stages run."""

import os
import signal
import subprocess
import sys
import time

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


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_stops_its_jobs(sent, tmp_path):
    """Also when its terminal is closed: a training that goes on alone would meet the next one."""
    log, pid = tmp_path / "first.log", tmp_path / "pid"
    line = "\t".join(map(str, (log, 0, "-", f"echo $$ > {pid}; exec sleep 600"))) + "\n"
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
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
