"""No journal gives a wrong text: two runs at once, damage, other recordings of the same length."""

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import threading

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet_rand import atomic
from espnet_rand.longform import LongForm, decode_list, decoding, vad
from espnet_rand.longform.jobs import one_by_one
from espnet_rand.longform.journal import JournalError
from espnet_rand.longform.pieces import Piece

from .stub import RATE, Stub, ramp, spoken

TEXT = "one two three four five six seven eight nine zero".split() * 2  # noqa: SIM905
SAID = spoken(TEXT)
AUDIO = ramp(SAID[-1].end + 1)


def hear(journal, audio=AUDIO, stub=None, **options):
    return LongForm(stub or Stub(SAID), **{"window": 3, "overlap": 1, **options})(audio, journal)


def refused(journal, *args, **options):
    """Why; the journal stays as it is."""
    before = journal.read_bytes()
    with pytest.raises(JournalError) as error:
        hear(journal, *args, **options)
    assert journal.read_bytes() == before and "\n" not in str(error.value) and ". Fix: " in str(error.value)
    return str(error.value)


@pytest.fixture
def journal(tmp_path):
    """A finished one."""
    assert hear(tmp_path / "key.jsonl").text == " ".join(TEXT)
    return tmp_path / "key.jsonl"


def altered(text, kind, rng):
    """A journal with some bytes, or lines, altered."""
    lines = text.splitlines(keepends=True)
    i, j = rng.integers(len(lines), size=2)
    if kind == "bytes":
        content = np.frombuffer(text, np.uint8).copy()
        content[rng.integers(len(content), size=1 + i)] = rng.integers(256, size=1 + i)
        return content.tobytes()
    if kind == "character":
        places = [k for k, character in enumerate(text) if chr(character).isalnum()]
        k = places[rng.integers(len(places))]
        new = b"0123456789abcdefghijklmnopqrstuvwxyz"[rng.integers(36)]
        return text[:k] + bytes([new]) + text[k + 1 :]
    if kind == "cut":
        return text[: rng.integers(len(text))]
    if kind == "swap":
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == "delete":
        del lines[i]
    else:
        lines.insert(j, lines[i])
    return b"".join(lines)


@pytest.mark.parametrize("kind", ["bytes", "character", "cut", "swap", "delete", "duplicate"])
def test_an_altered_journal_gives_the_right_text_or_is_refused(journal, kind):
    text, rng = journal.read_bytes(), np.random.default_rng(0)
    for _ in range(20):
        journal.write_bytes(altered(text, kind, rng))
        try:
            assert hear(journal).text == " ".join(TEXT)
            assert journal.read_bytes().count(b"\n") == text.count(b"\n")
        except JournalError as e:
            assert "Fix" in str(e)


def test_what_follows_damage_is_heard_again(journal, caplog):
    lines = journal.read_bytes().splitlines(keepends=True)
    other = journal.with_name("other.jsonl")
    hear(other, AUDIO[::-1])
    spliced = other.read_bytes().splitlines(keepends=True)[3]
    for damaged in (lines[3].replace(b'"timed": true', b'"timed": false'), lines[4], spliced):
        journal.write_bytes(b"".join([*lines[:3], damaged, *lines[4:]]))
        stub = Stub(SAID)
        caplog.clear()
        assert hear(journal, stub=stub).text == " ".join(TEXT)
        assert stub.calls == [k * 2 * RATE for k in range(2, len(lines) - 1)]
        assert f"{journal}: line 4 is damaged" in caplog.text
    # as an editor of Windows writes them
    journal.write_bytes(b"".join(lines).replace(b"\n", b"\r\n"))
    stub = Stub(SAID)
    assert hear(journal, stub=stub).text == " ".join(TEXT) and not stub.calls


def test_journals_of_other_versions_are_refused(journal):
    first = json.loads(journal.read_text().splitlines()[0])
    journal.write_text(json.dumps({"of": first["of"], "pieces": first["pieces"]}) + "\n")
    assert "is of another version of espnet_rand" in refused(journal)


def test_another_version_may_hear_something_else(journal, monkeypatch):
    monkeypatch.setattr(decoding, "__version__", "99")
    assert "was begun with other version of espnet_rand" in refused(journal)


def test_what_is_no_journal_stays(tmp_path):
    for content in ("a text without a line's end", "lines\nof a text\n"):
        (tmp_path / "notes.txt").write_text(content)
        assert "it is damaged" in refused(tmp_path / "notes.txt")


def test_pieces_must_be_those_of_now(journal, monkeypatch):
    monkeypatch.setattr(decoding, "windows", lambda *_: [Piece(0, len(AUDIO) // 2), Piece(len(AUDIO) // 2, len(AUDIO))])
    assert "was begun with other pieces" in refused(journal)


def test_with_vad_the_detector_must_be_that_of_now(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(vad, "check", lambda rate: None)
    monkeypatch.setattr(vad, "speech", lambda recording: asked.append(1) or [(0, len(AUDIO))])
    assert hear(tmp_path / "a.jsonl", mode="vad") == hear(tmp_path / "a.jsonl", mode="vad")
    assert len(asked) == 1
    monkeypatch.setattr(decoding, "_silero_version", lambda: "99")
    assert "was begun with other vad" in refused(tmp_path / "a.jsonl", mode="vad")


class Waits(Stub):
    """Before its second piece it lets others run."""

    def __init__(self, words, others):
        super().__init__(words)
        self.others = others

    def __call__(self, samples):
        if len(self.calls) == 1:
            self.others()
        return super().__call__(samples)


def test_two_calls_with_a_journal_do_not_mix(tmp_path):
    journal, reasons = tmp_path / "key.jsonl", []
    thread = threading.Thread(target=lambda: reasons.append(refused(journal)))
    stub = Waits(SAID, lambda: (thread.start(), thread.join()))
    assert hear(journal, stub=stub).text == " ".join(TEXT)
    assert reasons == [f"{journal}: another run is at work on it. Fix: wait for it, stop it, or choose another"]
    stub = Stub(SAID)
    assert hear(journal, stub=stub).text == " ".join(TEXT) and not stub.calls


def test_without_locks_it_is_said_and_no_text_is_wrong(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    atomic._warn.cache_clear()
    journal, found = tmp_path / "key.jsonl", []
    stub = Waits(SAID, lambda: found.append(hear(journal)))
    texts = [hear(journal, stub=stub).text, found[0].text, hear(journal).text]
    assert texts == [" ".join(TEXT)] * 3
    warnings = [line for line in caplog.messages if "no locks" in line]
    assert warnings == [
        f"{tmp_path}: its file system has no locks (No locks available): see that no second run writes to it"
    ]


@pytest.fixture
def two(tmp_path):
    """Two recordings of the same length, files a.wav and b.wav."""
    for name, samples in (("a", AUDIO), ("b", AUDIO[::-1])):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    return tmp_path


def decode(entry, output, stub=None):
    long_form = LongForm(stub or Stub(SAID), window=3, overlap=1)
    return decode_list.decode(one_by_one(long_form), {"key": str(entry)}, output, pipes=True)


def test_another_file_of_the_same_size_and_time_is_another_recording(two):
    os.utime(two / "a.wav", (1e9, 1e9))
    assert decode(two / "a.wav", two / "out") == 0
    shutil.copy(two / "b.wav", two / "a.wav")
    os.utime(two / "a.wav", (1e9, 1e9))
    with pytest.raises(JournalError, match="was begun with other recording"):
        decode(two / "a.wav", two / "out")


@pytest.mark.parametrize("kind", ["command", "archive"])
def test_a_recording_of_a_command_or_an_archive_is_its_content(two, kind):
    def store(samples):
        if kind == "command":
            soundfile.write(two / "c.wav", samples, RATE, subtype="FLOAT")
            return f"cat {two}/c.wav |"
        kaldiio.save_ark(str(two / "c.ark"), {"key": (RATE, (samples * 2**15).astype(np.int16))})
        return f"{two}/c.ark:4"

    entry = store(AUDIO)
    assert decode(entry, two / "out") == 0
    os.utime(two / f"c.{'wav' if kind == 'command' else 'ark'}", (1e9, 1e9))
    stub = Stub(SAID)
    assert decode(entry, two / "out", stub) == 0 and not stub.calls
    assert store(AUDIO[::-1]) == entry
    with pytest.raises(JournalError, match="was begun with other recording"):
        decode(entry, two / "out")


def test_a_second_run_in_a_directory_is_refused_until_the_first_ends_or_dies(two):
    begun, go_on = os.pipe()
    pid = os.fork()
    if not pid:  # the child

        def wait():
            os.write(go_on, b"!")
            signal.pause()

        try:
            decode(two / "a.wav", two / "out", Waits(SAID, wait))
        finally:
            os._exit(1)
    os.read(begun, 1)
    try:
        files = {path: path.read_bytes() for path in two.rglob("*") if path.is_file()}
        message = f"{two}/out: process {pid} on .*, since .*, is at work there. Fix: wait for it"
        with pytest.raises(JournalError, match=message):
            decode(two / "b.wav", two / "out")
        assert files == {path: path.read_bytes() for path in two.rglob("*") if path.is_file()}
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    stub = Stub(SAID)
    assert decode(two / "a.wav", two / "out", stub) == 0
    assert stub.calls[0] == 2 * RATE  # the first piece was finished
    assert (two / "out/1best_recog/text").read_text() == f"key {' '.join(TEXT)}\n"
    assert not (two / "out/run.lock").read_bytes()


def test_long_keys_that_begin_alike(two):
    keys = [character * 249 + end for character in "k好" for end in "ab"]
    entries = {key: str(two / "a.wav") for key in keys}
    assert decode_list.decode(one_by_one(LongForm(Stub(SAID), window=3)), entries, two / "out") == 0
    assert {json.loads(path.read_text())["key"] for path in (two / "out/json").iterdir()} == {*keys}
    assert len([*(two / "out/windows").iterdir()]) == 4


def test_the_time_in_a_file_of_floats_is_no_other_content(two, monkeypatch):
    entry = f"cat {two}/a.wav |"
    assert decode(entry, two / "out") == 0
    content = bytearray((two / "a.wav").read_bytes())
    content[content.index(b"PEAK") + 12] ^= 1  # when it was written
    (two / "a.wav").write_bytes(content)
    assert decode(entry, two / "out") == 0


def test_a_disk_that_gets_full_ends_the_run(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        with pytest.raises(JournalError, match="a.jsonl: not to be written: .*Fix: free some space"):
            hear(tmp_path / "a.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert hear(tmp_path / "a.jsonl").text == hear(tmp_path / "b.jsonl").text
