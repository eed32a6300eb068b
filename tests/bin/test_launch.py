"""espnet-rand runs Python as Python does, registered in every process below it."""

import re

import pytest

from espnet_rand.bin import launch
from espnet_rand.environment import BACKENDS
from espnet_rand.packing.kernels import KERNELS

PROBE = "from espnet2.tasks.lm import LMTask as T; print('quantizer' in {a.dest for a in T.get_parser()._actions})"


def said(done):
    """What the probe and the tests' own modules print (ESPnet 202511 prints of packages that it lacks)."""
    return [line for line in done.stdout.splitlines() if line in ("True", "False", "mine", "theirs")]


def test_module_command_and_script(run, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:], __name__)")
    assert run("espnet-rand", script, "a", "--b").stdout.strip() == "['a', '--b'] __main__"
    assert run("espnet-rand", "-c", "import sys; print(sys.argv)", "x").stdout.strip() == "['-c', 'x']"
    assert "usage" in run("espnet-rand", "-m", "json.tool", "--help").stdout
    assert run("espnet-rand", "-", "--b").stdout == ""  # a script from stdin, which is empty


def test_a_folder_that_is_called_as_a_watched_module(run, tmp_path):
    (tmp_path / "whisper").mkdir()
    probe = (
        f"import sys, importlib; sys.path[:] = [{str(tmp_path)!r}]; print(importlib.import_module('whisper').__path__)"
    )
    assert str(tmp_path) in run("espnet-rand", "-c", probe).stdout


def test_every_python_below_is_registered(run):
    assert said(run("espnet-rand", "-c", PROBE)) == ["True"]
    below = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PROBE!r}])"
    assert said(run("espnet-rand", "-c", below)) == ["True"]
    assert said(run("python", "-c", PROBE)) == ["False"]


def test_a_module_that_is_looked_up_first(run):
    looks = "import importlib.util; importlib.util.find_spec('espnet2.tasks.abs_task')"
    assert said(run("espnet-rand", "-c", f"{looks}; {PROBE}")) == ["True"]


def test_registering_once_more_below_the_launcher(run):
    assert said(run("espnet-rand", "-c", f"import espnet_rand; espnet_rand.register(); {PROBE}")) == ["True"]


def test_nothing_is_imported_that_is_not_needed(run):
    loaded = run("espnet-rand", "-c", "import sys; print('torch' in sys.modules, 'espnet_rand' in sys.modules)")
    assert loaded.stdout.strip() == "False False"


def test_help_lists_the_commands_without_torch(run):
    probe = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); "
    said = run("python", "-c", f"{probe}from espnet_rand.bin.launch import main; main(['--help'])").stdout
    listed = set(re.findall(r"^  (\w+) +[A-Z].*[.]$", said, re.MULTILINE))
    assert {"pack_weights", "allocate_bits", "asr_inference_long"} <= listed and said.endswith("False\n")
    assert not {"launch", "link", "command", "packed_file"} & listed


def test_import_reaches_children(run, tmp_path):
    (tmp_path / "mine.py").write_text("print('mine')")
    below = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PROBE!r}])"
    done = run("espnet-rand", "--import", "mine", "-c", below, PYTHONPATH=str(tmp_path))
    assert said(done) == ["mine", "True"]
    done = run("espnet-rand", "--import", "not_there", "-c", PROBE, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("espnet-rand: error: --import: there is no module not_there. Fix")


def test_a_shadowed_sitecustomize_still_runs(run, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('theirs')")
    done = run("espnet-rand", "-c", PROBE, PYTHONPATH=str(tmp_path))
    # first in the Python that runs the launcher, then in the one that it becomes
    assert said(done) == ["theirs", "theirs", "True"]


def test_values_of_pythons_options_are_not_options(run):
    for flags in (
        ["-Wignore::ImportWarning"],
        ["-W", "error::SyntaxWarning"],
        ["-X", "dev"],
        ["-uX", "frozen_modules"],
    ):
        assert run("espnet-rand", *flags, "-c", "print('IES')", "-I").stdout == "IES\n"


def test_what_a_user_can_fix_is_one_line(run):
    below = "from espnet_rand.errors import UserError; raise UserError('fix it')"
    done = run("espnet-rand", "-c", below, check=False)
    assert done.returncode == 1 and done.stderr == "espnet-rand: error: fix it\n"
    done = run("espnet-rand", "-c", "raise ValueError('a bug')", check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_wrong_command_lines(run):
    isolated = (["-I", "-c", "1"], ["-uE", "-m", "x"], ["-W", "ignore", "-E", "x.py"], ["-uX", "dev", "-S", "x.py"])
    for wrong in (["--import"], ["--eval_bits="], *isolated):
        done = run("espnet-rand", *wrong, check=False)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    done = run("espnet-rand", check=False)
    assert done.returncode == 2 and "usage" in done.stderr


@pytest.mark.parametrize(
    "given, message",
    [
        (["--foo"], "--foo is not known here. Known are --import, --eval_bits"),
        (["-u", "--eval_bits", "3"], "--eval_bits is not known here. Known are .*, which come first"),
        (["-uZ"], "-Z is not known here"),
        (["--eval_bits", "9"], "--eval_bits: 9 is not allowed"),
        (["--eval_bits", "no.yaml"], "--eval_bits: no such file: no.yaml"),
        (["--packed_backend", "none"], "--packed_backend: 'none' is not allowed, it must be one of auto, int8_dynamic"),
        (["--trailing_silence", "-3"], "--trailing_silence: '-3' is not allowed, it must be a number of seconds"),
        (["--trailing_silence", "nan"], "--trailing_silence: 'nan' is not allowed"),
    ],
)
def test_values_are_refused_before_anything_starts(given, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        launch.main([*given, "-m", "json.tool"])
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"espnet-rand: error: {message}", line)


def test_backends_of_the_launcher_are_those_of_the_kernels():
    assert set(KERNELS) == set(BACKENDS) - {"auto", "dequantize"}
