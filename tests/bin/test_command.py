"""What all commands do where the disk is full, an option is unknown or ESPnet is missing."""

import errno
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from espnet_rand import errors
from espnet_rand.bin import inspect_weights, strip_scales, unpack_weights
from espnet_rand.packing import read_packed, write_packed

FIXTURES = Path(__file__).parents[1] / "fixtures/v1"
HIDE_ESPNET = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *path: None if name == "espnet2" else find(name, *path)
"""
PACKED = FIXTURES / "rand_tensor_2.safetensors"


@pytest.fixture
def full(monkeypatch):
    """A disk that gets full while a file is written to it."""

    def fill(_, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fill)
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: fill(None, path.open("wb")))


def test_a_full_disk_leaves_no_half_file(full, tmp_path):
    (tmp_path / "out.pth").write_text("of before")
    output = ["--output", str(tmp_path / "out.pth")]
    for command, given in (
        (unpack_weights, ["--packed_file", str(PACKED)]),
        (strip_scales, ["--model_file", str(FIXTURES / "lsc_channel_3.pth")]),
    ):
        with pytest.raises(SystemExit, match=f"{tmp_path}/out.pth: no space is left on its disk. Fix"):
            command.main([*given, *output])
    with pytest.raises(OSError, match="out.pth"):
        write_packed(tmp_path / "out.pth", read_packed(PACKED))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]


def test_a_file_where_a_folder_is_wanted(tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in ("file/out.pth", "file/below/out.pth"):
        with pytest.raises(SystemExit, match="--output: .*file.* is no directory. Fix"):
            unpack_weights.main(["--packed_file", str(PACKED), "--output", str(tmp_path / output)])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_command_that_is_stopped_says_so(tmp_path, monkeypatch, capsys):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(unpack_weights, "read_packed", stop)
    with pytest.raises(SystemExit, match="130"):
        unpack_weights.main(["--packed_file", str(PACKED), "--output", str(tmp_path / "out.pth")])
    assert capsys.readouterr().err == "unpack_weights: stopped\n"


def test_commands_refuse_options_in_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        inspect_weights.main(["--foo"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("inspect_weights: error: ") and line.endswith("(--help lists the options)")


def test_without_espnet(run, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE_ESPNET)
    without = {"PYTHONPATH": str(tmp_path), "check": False}
    message = "ESPnet is not installed for "
    (line,) = run("espnet-rand", "-m", "espnet2.bin.asr_train", **without).stderr.splitlines()
    assert line.startswith(f"espnet-rand: error: {message}") and "Fix: pip install espnet" in line
    (line,) = run("python", "-m", "espnet_rand.bin.pack_weights", **without).stderr.splitlines()
    assert line.startswith(f"pack_weights: error: {message}")
    (line,) = run("espnet-rand", "-c", "import espnet_rand; espnet_rand.register()", **without).stderr.splitlines()
    assert line.startswith(f"espnet-rand: error: {message}")


@pytest.mark.parametrize("program, lines", [("espnet2.bin.asr_train", 1), ("mine", 0)])
def test_what_espnet_does_not_find_is_one_line(monkeypatch, capsys, program, lines):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec(program, None))
    worker = "Caught FileNotFoundError in a worker.\nTraceback (most recent call last):\n"
    missing = "[Errno 2] No such file or directory: 'no.scp'"
    others = []
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "no.scp"),
        FileNotFoundError(f"{worker}FileNotFoundError: {missing}\n"),
        OSError('Not found: "bpe.model": No such file or directory Error #2'),  # sentencepiece's
        RuntimeError("a bug"),
    ):
        errors.say("espnet-rand", lambda *error: others.append(error), type(error), error, None)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 * lines and len(others) == 4 - 3 * lines
    assert [line.startswith(f"espnet-rand: error: {missing}. Fix") for line in said[:2]] == [True] * 2 * lines
