"""Several processes: who decodes what, and what becomes of the rest when one of them, or the run, is killed."""

import functools
import json
import logging
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import soundfile

from espnet_rand.longform import LongForm, decode_list
from espnet_rand.longform.jobs import one_by_one
from espnet_rand.longform.journal import JournalError
from espnet_rand.longform.workers import WorkerError, Workers
from espnet_rand.options import OptionError
from espnet_rand.toolkit.recognition import Heard, Word

RATE = 100


class Recognizer:
    """Hears how long a piece is. It is slow where that is asked for; loud samples kill its process."""

    rate = RATE

    def __init__(self, pause=0.0):
        self.pause = pause

    def __call__(self, samples):
        time.sleep(self.pause)
        if samples.max() > 0.7:
            os.kill(os.getpid(), signal.SIGKILL)
        return Heard([Word(f"w{len(samples)}", 0.0, 0.1)])


def build(pause=0.0, window=2, warning=None):
    if warning is not None:
        logging.warning(warning)
    return LongForm(Recognizer(pause), window=window, overlap=0)


def recordings(folder, **seconds):
    """Files of these lengths; of a negative one all but the first two seconds are loud."""
    entries = {}
    for key, length in seconds.items():
        samples = np.full(abs(length) * RATE, 0.5, np.float32)
        samples[2 * RATE :] += 0.25 * (length < 0)
        soundfile.write(folder / f"{key}.wav", samples, RATE, subtype="FLOAT")
        entries[key] = str(folder / f"{key}.wav")
    return entries


def decode(entries, output, belongs_to=None, count=2, **options):
    """Decode by several processes; returns how many recordings were refused."""
    with Workers(functools.partial(build, **options), belongs_to, count) as workers:
        return decode_list.decode(workers, entries, output)


def files(output):
    """All that was written, without the time that it took."""
    found = {path: path.read_text() for path in sorted(output.rglob("*")) if path.is_file()}
    lines = [json.loads(line) for line in (output / "report.jsonl").read_text().splitlines()]
    found[output / "report.jsonl"] = [{**line, "took": None} for line in lines]
    return {str(path.relative_to(output)): content for path, content in found.items()}


def test_the_files_are_those_of_one_process_and_a_warning_comes_once(tmp_path, caplog):
    entries = recordings(tmp_path, a=3, b=8, c=5, d=1)
    entries = {**entries, "broken": str(tmp_path / "not_there.wav"), "e": entries["a"]}
    assert decode_list.decode(one_by_one(build()), entries, tmp_path / "one") == 1
    with Workers(functools.partial(build, warning="a word"), None, 2) as workers:
        assert decode_list.decode(workers, entries, tmp_path / "two") == 1
        assert decode_list.decode(workers, {"f": entries["d"]}, tmp_path / "more") == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert caplog.messages.count("a word") == 1 and not multiprocessing.active_children()


def test_the_longest_comes_first(tmp_path):
    entries = recordings(tmp_path, a=3, b=8, c=5)
    entries["unknown"] = f"cat {entries['a']} |"
    begun = []

    def hearing(jobs, follow):
        return workers(jobs, lambda key, *seconds: begun.append(key) or follow(key, *seconds))

    with Workers(build, None, 1) as workers:
        assert decode_list.decode(hearing, entries, tmp_path / "out", pipes=True) == 0
    assert [*dict.fromkeys(begun)] == ["unknown", "b", "c", "a"]


def test_a_killed_process_takes_one_recording_with_it(tmp_path, caplog):
    entries = recordings(tmp_path, a=3, bad=-20, c=5, d=4)
    assert decode(entries, tmp_path / "out") == 1
    (refused,) = (line for line in files(tmp_path / "out")["report.jsonl"] if not line["decoded"])
    assert refused["key"] == "bad" and "SIGKILL" in refused["reason"] and "memory" in refused["reason"]
    assert any(line.startswith("bad: refused: its process was killed") for line in caplog.messages)
    text = (tmp_path / "out/1best_recog/text").read_text()
    assert text == "a w200 w100\nc w200 w200 w100\nd w200 w200\n"
    assert len((tmp_path / "out/windows/bad.jsonl").read_text().splitlines()) == 2  # its first window is kept


def test_where_no_process_is_left_what_is_finished_stays(tmp_path):
    entries = recordings(tmp_path, long=9, bad=-8, short=3)
    with pytest.raises(WorkerError, match=r"SIGKILL.*not begun: 1\. Fix: the same command"):
        decode(entries, tmp_path / "out", count=1)
    assert (tmp_path / "out/srt/long.srt").exists() and not (tmp_path / "out/report.jsonl").exists()


def test_errors_of_the_run_end_it(tmp_path):
    entries = recordings(tmp_path, a=30, b=20)
    with pytest.raises(OptionError, match="window: 0 is not allowed"):
        decode(entries, tmp_path / "out", window=0)
    decode_list.decode(one_by_one(build(), {"beam_size": 1}), {"b": entries["b"]}, tmp_path / "out")
    with pytest.raises(JournalError, match="other beam_size"):
        decode(entries, tmp_path / "out", {"beam_size": 2}, pause=0.1)
    assert not multiprocessing.active_children()


@pytest.fixture
def pythons_own_handler():
    """Of Ctrl-C. (dask_jobqueue, which other tests import, has another.)"""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("pythons_own_handler")
@pytest.mark.parametrize("number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_all_and_the_same_command_goes_on(tmp_path, number, error):
    entries = recordings(tmp_path, a=40, b=40)
    before = signal.getsignal(number)

    def stop():
        while not all(journal(key) > 2 for key in entries):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    def journal(key):
        path = tmp_path / f"out/windows/{key}.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(error) as stopped:
        decode(entries, tmp_path / "out", pause=0.1)
    assert number == signal.SIGINT or stopped.value.code == 128 + signal.SIGTERM
    assert not multiprocessing.active_children() and signal.getsignal(number) is before
    heard = []
    long_form = build()
    long_form.recognizer = lambda samples: heard.append(samples) or Recognizer()(samples)
    long_form.recognizer.rate = RATE
    assert decode_list.decode(one_by_one(long_form), entries, tmp_path / "out") == 0
    assert len(heard) < 2 * 19
