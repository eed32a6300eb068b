"""What a newcomer mistypes is said in one line."""

import pytest
import torch

import espnet_rand
from espnet_rand.errors import UserError

espnet_rand.register()
from espnet2.tasks.asr import ASRTask  # noqa: E402

from espnet_rand.toolkit import eval_bits, options  # noqa: E402
from espnet_rand.toolkit.context import missing_file  # noqa: E402
from espnet_rand.toolkit.hooks import init_param  # noqa: E402
from espnet_rand.toolkit.pretrained.sources import open_pretrained, read_weights  # noqa: E402
from tests.toolkit import tasks  # noqa: E402

DEEP = "{a: " * 3000 + "1" + "}" * 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """config.yaml and model.pth of a small model."""
    folder = tasks.write_config("asr", tmp_path_factory.mktemp("mistakes") / "asr")[1]
    torch.save(ASRTask.build_model_from_file(folder / "config.yaml")[0].state_dict(), folder / "model.pth")
    return folder


def said(call, *arguments, **keywords):
    """The line that a call ends with."""
    with pytest.raises(UserError) as stopped:
        call(*arguments, **keywords)
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


def test_a_missing_gpu(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    files = folder / "config.yaml", folder / "model.pth"
    assert "--ngpu 1: torch finds no GPU" in said(ASRTask.build_model_from_file, *files, "cuda")
    output = tmp_path / "exp"
    given = ["--output_dir", output, "--token_list", "x", "--ngpu", "2", "--multiprocessing_distributed", "true"]
    given += ["--train_data_path_and_name_and_type", "x,speech,sound", "--train_shape_file", "x"]
    given += ["--valid_data_path_and_name_and_type", "x,speech,sound", "--valid_shape_file", "x"]
    assert "--ngpu 2: torch finds no GPU" in said(ASRTask.main, cmd=[*map(str, given)])
    assert not output.exists()


@pytest.mark.parametrize("missing", ["config.yaml", "packed.safetensors"])
def test_missing_files(folder, missing):
    files = {"config_file": folder / "config.yaml", "model_file": folder / "model.pth"}
    files["config_file" if missing == "config.yaml" else "model_file"] = folder / "exp" / missing
    assert f"no such file: {folder}/exp/{missing} (from " in said(ASRTask.build_model_from_file, **files)


@pytest.mark.parametrize(
    "more", [{"token_list": "data/tokens.txt"}, {"normalize": "global_mvn", "normalize_conf": {"stats_file": "s.npz"}}]
)
def test_paths_of_a_configuration_from_elsewhere(tmp_path, more):
    folder = tasks.write_config("asr", tmp_path / "exp", **more)[1]
    line = said(ASRTask.build_model_from_file, folder / "config.yaml")
    assert line.startswith(f"{folder}/config.yaml: no such file: ") and "where the training was started" in line


def test_what_is_missing_is_claimed_of_a_configuration_that_names_it():
    sentencepiece = OSError('Not found: "data/bpe.model": No such file or directory Error #2')
    line = str(missing_file(sentencepiece, "c.yaml", "bpemodel: data/bpe.model"))
    assert line.startswith("c.yaml: no such file: data/bpe.model. Fix: start the command where the training was")
    assert missing_file(sentencepiece, "c.yaml", "bpemodel: null") is None
    assert missing_file(PermissionError(13, "Permission denied", "x"), "c.yaml", "x: x") is None
    absolute = FileNotFoundError(2, "No such file or directory", "/no/s.npz")
    assert "put it there" in str(missing_file(absolute, "c.yaml", "stats_file: /no/s.npz"))


@pytest.mark.parametrize("size", [0, 8, 1000])
@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_files_cut_off(folder, tmp_path, size, name):
    path = tmp_path / name
    path.write_bytes((folder / "model.pth").read_bytes()[:size])
    line = said(ASRTask.build_model_from_file, folder / "config.yaml", path)
    assert str(path) in line and ("copy or make it again" in line) == (size < 9)
    assert str(path) in said(read_weights, path)


def test_yaml_nested_too_deep(folder, tmp_path, capsys):
    for name in ("config.yaml", "meta.yaml"):
        (tmp_path / name).write_text(DEEP)
    path = tmp_path / "config.yaml"
    training = {"quantizer_config": path, "quantizer": None}
    lines = [
        said(ASRTask.build_model_from_file, path, folder / "model.pth"),
        said(eval_bits.read_precision, path),
        said(options.resolve, options.argparse.Namespace(**training)),
        said(options.trained_with, path),
        said(open_pretrained(tmp_path).__enter__),
        said(init_param._other_tokens, path),
    ]
    assert all("nested too deep" in line and str(tmp_path) in line for line in lines)
    for given in (["--config", str(path)], ["--encoder_conf", f"x={DEEP}"]):
        with pytest.raises(SystemExit):
            ASRTask.get_parser().parse_args(given)
        assert "nested too deep" in capsys.readouterr().err


def test_bits_of_a_plan_are_refused_before_there_is_a_model(tmp_path):
    (tmp_path / "plan.yaml").write_text("'*': 9\n")
    assert "eval_bits: *: 9 is not allowed" in said(eval_bits.read_precision, tmp_path / "plan.yaml")


def test_espnet_refuses_options_in_one_line(capsys):
    with pytest.raises(SystemExit):
        ASRTask.get_parser().parse_args(["--foo"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("error: unrecognized arguments: --foo (--help lists the options)")


def test_recordings_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    from espnet2.fileio.sound_scp import SoundScpReader

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.wav").write_bytes(bytes(40))
    (tmp_path / "wav.scp").write_text(f"gone nope/x.wav\nbad {tmp_path}/bad.wav\n")
    reader = SoundScpReader("wav.scp")
    assert said(reader.__getitem__, "gone").startswith(f"gone: there is no nope/x.wav (from {tmp_path}). Fix: ")
    assert said(reader.__getitem__, "bad").startswith(f"bad: {tmp_path}/bad.wav is not to be read: ")
    monkeypatch.setattr("espnet2.fileio.sound_scp.soundfile_read", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reader["bad"]


@pytest.mark.parametrize("kind", ["multi_columns_sound", "variable_columns_sound", "kaldi_ark"])
def test_recordings_of_other_types_are_named(tmp_path, monkeypatch, kind):
    from espnet2.train.dataset import DATA_TYPES

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.wav").write_bytes(bytes(40))
    (tmp_path / "wav.scp").write_text("gone nope/x.wav\nbad bad.wav\nold nope.ark:12\ncut bad.wav:12\nrun false |\n")
    reader = DATA_TYPES[kind]["func"]("wav.scp")
    assert said(reader.__getitem__, "gone").startswith("gone: there is no nope/x.wav (from ")
    assert said(reader.__getitem__, "bad").startswith("bad: bad.wav is not to be read: ")
    if kind == "kaldi_ark":
        assert said(reader.__getitem__, "old").startswith("old: there is no nope.ark:12 (from ")
        assert said(reader.__getitem__, "cut").startswith("cut: bad.wav:12 is not to be read: ")
        assert said(reader.__getitem__, "run").startswith("run: false | is not to be read: ")


def test_what_is_to_be_imported(tmp_path, monkeypatch):
    from espnet_rand.toolkit.hooks import registration

    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/__init__.py").write_text("import nonexistent_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("x.py", "./x", "absent_module"):
        monkeypatch.setenv("ESPNET_RAND_IMPORT", name)
        assert "--import: " in said(registration._imports)
    monkeypatch.setenv("ESPNET_RAND_IMPORT", "bad.sub")
    with pytest.raises(ModuleNotFoundError, match="nonexistent_dependency"):
        registration._imports()
