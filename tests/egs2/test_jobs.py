"""The commands that stages run."""

import subprocess
import sys

from tests.egs2.recipe import EGS2


def run(*jobs):
    lines = "".join("\t".join(map(str, job)) + "\n" for job in jobs)
    command = [sys.executable, EGS2 / "TEMPLATE/asr1/pyscripts/jobs.py", "--title", "stage 4"]
    return subprocess.run(command, input=lines, capture_output=True, text=True)


def test_finished_jobs_are_skipped_and_another_command_is_said(tmp_path):
    log = tmp_path / "new/train.log"
    job = (log, 0, "-", f"echo trained; echo ran >> {tmp_path}/runs")
    assert run(job).returncode == 0
    assert log.read_text().splitlines()[-1] == "trained"
    again = run(job)
    assert again.stdout == "stage 4: 1 of 1 are there\n"
    changed = run((*job[:3], "echo other"))
    assert changed.returncode == 0 and f"{tmp_path}/new/train.done is of another command" in changed.stdout
    assert (tmp_path / "runs").read_text() == "ran\n" and "other" not in log.read_text()
    (tmp_path / "new/train.done").write_text("")  # by hand, or before commands were noted
    assert run(job).stdout == again.stdout


def test_a_failed_job_stops_the_others(tmp_path):
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    failed = run((first, 0, "-", "echo why; exit 3"), (second, 0, first, "echo never"))
    assert failed.returncode == 1 and not second.exists()
    assert failed.stderr.splitlines()[-2:] == ["why", f"stage 4: failed, see {first}"]
