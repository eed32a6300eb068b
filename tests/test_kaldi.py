"""Kaldi-style data directories, and what an interruption leaves of them."""

import pytest

from espnet_rand.atomic import DirectoryError, replacing_directory
from espnet_rand.kaldi import DataError, read_lines, write_data_dir

ROWS = [("b-2", "b", "2.wav", "two  words"), ("a-1", "a", "1.wav", ""), ("b-1", "b", "3.wav", "line\u2028separator")]


def test_what_is_written_is_read(tmp_path):
    write_data_dir(tmp_path, ROWS)
    assert (tmp_path / "wav.scp").read_text() == "a-1 1.wav\nb-1 3.wav\nb-2 2.wav\n"
    assert (tmp_path / "spk2utt").read_text() == "a a-1\nb b-1 b-2\n"
    assert read_lines(tmp_path / "utt2spk") == {"a-1": "a", "b-1": "b", "b-2": "b"}
    assert read_lines(tmp_path / "text") == {row[0]: row[3] for row in ROWS}


@pytest.mark.parametrize("rows, reason", [([], "no utterances"), ([*ROWS, ROWS[0]], "b-2 comes twice")])
def test_what_was_there_stays_if_the_new_one_is_wrong(tmp_path, rows, reason):
    for content in (ROWS, rows):
        try:
            with replacing_directory(tmp_path / "set") as directory:
                write_data_dir(directory, content)
        except DataError as e:
            assert reason in str(e)
    assert list(read_lines(tmp_path / "set/text")) == ["a-1", "b-1", "b-2"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_directory_is_replaced_as_a_whole_after_a_kill(tmp_path):
    for name in ("set", ".set.unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    with replacing_directory(tmp_path / "set") as directory:
        (directory / "new").touch()
        assert (tmp_path / "set/old").exists()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["new"]


def test_two_runs_do_not_write_the_same_directory(tmp_path):
    with replacing_directory(tmp_path / "set") as directory:
        (directory / "first").touch()
        with pytest.raises(DirectoryError, match="at work there. Fix"), replacing_directory(tmp_path / "set"):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "first"]
    with pytest.raises(DirectoryError, match="is a file"), replacing_directory(tmp_path / "set/first"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "first"]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffa 1.wav\nb 2  3\n",
        "\ufeffa 1.wav\n\ufeffb 2  3\n",  # two lists, put together
        "a 1.wav\r\nb 2  3\r\n",
        "\ufeff\r\n\n \u00a0\na\t1.wav \n\nb 2  3",
        "a\u00a01.wav\u00a0\n\u3000b 2  3\n",
    ],
)
def test_marks_ends_of_lines_and_spaces_of_other_systems(tmp_path, content):
    (tmp_path / "list").write_bytes(content.encode())
    assert read_lines(tmp_path / "list") == {"a": "1.wav", "b": "2  3"}


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"a x\na y\n", "a comes twice"),
        ("a x\n\ufeffa y\n".encode(), "a comes twice"),
        (b"a \xff\n", "not to be read as UTF-8: .*Fix: save it as UTF-8"),
        ("a x\n".encode("utf-16"), "not to be read as UTF-8: .*Fix: save it as UTF-8"),
        ("a x\n".encode("utf-16-le"), "not to be read as UTF-8: it has zero bytes. Fix: save it as UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, content, reason):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(DataError, match=f"text: {reason}"):
        read_lines(tmp_path / "text")
