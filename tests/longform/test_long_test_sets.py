"""Long test sets of short utterances."""

import json

import numpy as np
import pytest
import soundfile

from espnet_rand.bin.join_utterances import main
from espnet_rand.kaldi import DataError, read_lines
from espnet_rand.longform.long_test_sets import join

RATE = 8000


@pytest.fixture
def data(tmp_path):
    """Two chapters of a speaker with 5 utterances of 2 s, each a constant of its own, and a chapter of another."""
    lines = {"wav.scp": [], "text": [], "utt2spk": []}
    for n in range(12):
        speaker, chapter = ("s1", "c1") if n < 5 else ("s1", "c2") if n < 10 else ("s2", "c3")
        name = f"{speaker}-{chapter}-{n:04d}"
        soundfile.write(tmp_path / f"{name}.wav", np.full(2 * RATE, (n + 1) / 100), RATE)
        lines["wav.scp"].append(f"{name} {tmp_path}/{name}.wav")
        lines["text"].append(f"{name} word{n}")
        lines["utt2spk"].append(f"{name} {speaker}")
    for name, content in lines.items():
        (tmp_path / name).write_text("\n".join(content) + "\n")
    return tmp_path


@pytest.fixture
def segmented(tmp_path):
    """A recording of 20 s that is a ramp, with segments that are not in the order of their names."""
    soundfile.write(tmp_path / "talk.wav", np.arange(20 * RATE) / (20 * RATE), RATE)
    (tmp_path / "wav.scp").write_text(f"talk {tmp_path}/talk.wav\n")
    (tmp_path / "segments").write_text("b talk 1.0 3.0\na talk 4.5 6.0\nc talk 6.5 9.5\nd talk 12 19\n")
    (tmp_path / "text").write_text("a second\nb first\nc third\nd fourth\n")
    return tmp_path


def manifest(directory):
    return [json.loads(line) for line in (directory / "manifest.jsonl").read_text().splitlines()]


def test_chapters_with_a_set_pause(data, tmp_path):
    made = join(data, tmp_path / "out", 7.0, "chapter", 0.5)
    # 2 + .5 + 2 + .5 + 2 = 7; the two that are left of a chapter are half of it, and those of the last are, too
    assert made == {"recordings": 5, "utterances": 12, "left_out": 0, "seconds": 2 * (7.0 + 4.5) + 4.5}
    texts = read_lines(tmp_path / "out/text")
    assert list(texts.values()) == [
        "word0 word1 word2",
        "word3 word4",
        "word5 word6 word7",
        "word8 word9",
        "word10 word11",
    ]
    line = manifest(tmp_path / "out")[1]
    assert [u["utterance"] for u in line["utterances"]] == ["s1-c1-0003", "s1-c1-0004"]
    assert [(u["start"], u["end"]) for u in line["utterances"]] == [(0.0, 2.0), (2.5, 4.5)]
    samples, rate = soundfile.read(read_lines(tmp_path / "out/wav.scp")[line["key"]])
    assert rate == RATE and len(samples) == 4.5 * RATE
    np.testing.assert_allclose(samples[: 2 * RATE], 0.04, atol=1e-4)
    np.testing.assert_allclose(samples[round(2.5 * RATE) :], 0.05, atol=1e-4)
    np.testing.assert_allclose(samples[2 * RATE : round(2.5 * RATE)], 0.04, atol=1e-4)  # the room, not zeros


def test_groups_and_durations(data, tmp_path):
    counts = {by: join(data, tmp_path / "out", None, by, 0.0)["recordings"] for by in ("chapter", "speaker", "all")}
    assert counts == {"chapter": 3, "speaker": 2, "all": 1}
    made = join(data, tmp_path / "out", 10.0, "chapter", 0.0)
    assert (made["recordings"], made["left_out"]) == (2, 2)  # 4 s are less than half
    with pytest.raises(DataError, match="no 600 s come together"):
        join(data, tmp_path / "out", 600.0, "all", 0.0)
    assert (tmp_path / "out/text").exists()  # what was there stays


def test_utterances_by_themselves(data, tmp_path):
    made = join(data, tmp_path / "out", 0, "chapter", 0.5)
    assert (made["recordings"], made["left_out"], made["seconds"]) == (12, 0, 24.0)
    assert list(read_lines(tmp_path / "out/text").values()) == [f"word{n}" for n in range(12)]


def test_segments_keep_their_pauses(segmented, tmp_path):
    made = join(segmented, tmp_path / "out", 9.0, "recording", None)
    assert (made["recordings"], made["left_out"]) == (2, 0)
    lines = manifest(tmp_path / "out")
    assert [line["text"] for line in lines] == ["first second third", "fourth"]
    assert [(u["start"], u["end"]) for u in lines[0]["utterances"]] == [(0.0, 2.0), (3.5, 5.0), (5.5, 8.5)]
    samples, _ = soundfile.read(read_lines(tmp_path / "out/wav.scp")[lines[0]["key"]])
    np.testing.assert_allclose(samples, np.arange(RATE, round(9.5 * RATE)) / (20 * RATE), atol=1e-4)


def test_segments_that_overlap_are_heard_to_the_end_of_the_last(segmented, tmp_path):
    # a is said into the end of b, and c goes on after d; with d it is 8 s
    (segmented / "segments").write_text("b talk 1.0 3.0\na talk 2.5 4\nc talk 5 13\nd talk 6 7\n")
    join(segmented, tmp_path / "out", 10.0, "recording", None)
    lines = manifest(tmp_path / "out")
    assert [line["text"] for line in lines] == ["third fourth"]
    join(segmented, tmp_path / "out", 12.0, "recording", None)
    (line,) = manifest(tmp_path / "out")
    assert line["text"] == "first second third fourth" and line["seconds"] == 12.0
    assert [(u["start"], u["end"]) for u in line["utterances"]] == [(0, 2), (1.5, 3), (4, 12), (5, 6)]
    samples, _ = soundfile.read(read_lines(tmp_path / "out/wav.scp")[line["key"]])
    np.testing.assert_allclose(samples, np.arange(RATE, 13 * RATE) / (20 * RATE), atol=1e-4)


def test_a_command_runs_once_for_all_utterances_of_its_recording(segmented, tmp_path):
    command = f"echo >> {tmp_path}/runs; cat {tmp_path}/talk.wav |"
    (segmented / "wav.scp").write_text(f"talk {command}\n")
    join(segmented, tmp_path / "out", 5.0, "recording", None, pipes=True)
    assert len(manifest(tmp_path / "out")) == 2 and (tmp_path / "runs").read_text() == "\n"


def test_segments_with_a_set_pause(segmented, tmp_path):
    join(segmented, tmp_path / "out", None, "recording", 1.0)
    (line,) = manifest(tmp_path / "out")
    assert [(u["start"], u["end"]) for u in line["utterances"]] == [(0, 2), (3, 4.5), (5.5, 8.5), (9.5, 16.5)]


def test_the_command(data, tmp_path, capsys):
    main(["--data_dir", str(data), "--output_dir", str(tmp_path / "long"), "--durations", "5", "whole", "utterance"]
         + ["--by", "chapter", "--pause", "0.5"])  # fmt: skip
    assert "5s: 5 recordings of 10 utterances" in capsys.readouterr().out
    assert len(read_lines(tmp_path / "long/whole/text")) == 3
    assert len(read_lines(tmp_path / "long/utterance/text")) == 12


@pytest.mark.parametrize(
    "file, content, reason",
    [
        ("text", "a x\na y\n", "twice"),
        ("text", "e x\n", "e is in text"),
        ("segments", "a talk 3 1\n", "a: a recording, start and end"),
        ("segments", "a talk 1 nan\n", "a: a recording, start and end"),
        ("segments", "b talk 1 3\na talk 4 5\nc talk 6 9\nd talk 12 99\n", "d ends at 99"),
        ("wav.scp", "other x.wav\n", "'talk'"),
        ("wav.scp", "talk not_there.wav\n", "no such file"),
        ("wav.scp", "talk cat talk.wav |\n", "--pipes"),
    ],
)
def test_what_is_wrong_is_named(segmented, tmp_path, file, content, reason):
    (segmented / file).write_text(content)
    with pytest.raises(SystemExit) as error:
        main(["--data_dir", str(segmented), "--output_dir", str(tmp_path / "long"), "--durations", "whole"])
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "long/whole").exists()


@pytest.mark.parametrize("options", [["--pause", "-1"], ["--pause", "x"], ["--durations", "0"], ["--by", "all"]])
def test_wrong_options(segmented, tmp_path, options):
    with pytest.raises(SystemExit) as error:
        main(["--data_dir", str(segmented), "--output_dir", str(tmp_path / "long"), *options])
    assert error.value.code
