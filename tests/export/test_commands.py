"""Exports by the commands: what they print, and what they refuse, by name and before any work."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import espnet_rand
from espnet_rand.bin import export_ctranslate2, export_whisper_cpp, quantize_weights
from espnet_rand.export import ctranslate2, ggml, whisper
from espnet_rand.export.codes import ExportError
from espnet_rand.packing import pack_model, read_packed, write_packed
from tests.export import tiny_whisper as tiny
from tests.toolkit.tiny_whisper import tiny as espnet_tiny  # noqa: F401 (a fixture)
from tests.toolkit.tiny_whisper import write as espnet_config

GROUP32, QUERY = {"granularity": "group", "group_size": 32}, "decoder.decoders.blocks.0.attn.query.weight"


@pytest.fixture(scope="module")
def groups():
    """A model in groups of 32."""
    return tiny.packed(GROUP32)


def export(command, packed, folder):
    """Run a command on a packed model; what it wrote."""
    write_packed(folder / "model.safetensors", packed)
    command.main([str(folder / "model.safetensors"), "--output", str(folder / "out/model")])
    return folder / "out/model"


def refused(command, packed, folder):
    """What a command refuses a packed model with."""
    with pytest.raises(SystemExit) as stopped:
        export(command, packed, folder)
    assert "\n" not in stopped.value.code and "Fix: " in stopped.value.code
    assert not list((folder / "out").iterdir()), "nothing is left there"
    return stopped.value.code


def test_the_report_says_what_is_held_how(groups, tmp_path, capsys):
    path = export(export_whisper_cpp, groups, tmp_path)
    said = capsys.readouterr().out
    assert f"{path}: {path.stat().st_size:,} bytes" in said and "Q4_0" in said and "e-04 rms" in said
    assert "in half precision: encoder.conv1.weight, encoder.conv2.weight" in said
    path = export(export_ctranslate2, tiny.packed({"bits": 8}, exclude=()), tmp_path / "..")
    said = capsys.readouterr().out
    assert "int8" in said and "in float32, decoded from their codes: encoder.conv1.weight" in said


def test_all_that_does_not_fit_is_said_at_once(tmp_path):
    overrides = {"*.mlp.0": {"granularity": "column"}, "*.cross_attn.*": {"granularity": "group", "group_size": 16}}
    mixed = tiny.packed({**GROUP32, "overrides": overrides}, exclude=("*conv*", "*.token_embedding"))
    said = refused(export_whisper_cpp, mixed, tmp_path)
    assert "encoder.encoders.blocks.0.mlp.0.weight" in said and "a scale for each column" in said
    assert "cross_attn.key.weight" in said and "for each 16 weights" in said
    assert "decoder.decoders.token_embedding.weight: weights in float" in said
    assert "granularity: group, group_size: 32" in said
    said = refused(export_ctranslate2, mixed, tmp_path)
    assert (
        "each column" in said
        and "in float" in said
        and "16 weights of a row, where the runtime has one for all" in said
        and "granularity: channel" in said
    )


@pytest.mark.parametrize("factor", [1e8, 1e-7])
def test_scales_beyond_half_precision_are_refused(groups, tmp_path, factor):
    weight = groups.weights[QUERY]
    scales = weight.scales.float().clone()
    scales[3] *= factor
    far = replace(groups, weights={**groups.weights, QUERY: replace(weight, scales=scales)})
    said = refused(export_whisper_cpp, far, tmp_path)
    assert QUERY in said and "half precision does not hold" in said


def test_scales_of_rows_of_zeros_do_not_matter(tmp_path):
    made = tiny.model()
    made.decoder.decoders.blocks[0].attn.query.weight[5] = 0
    espnet_rand.quantize(made, {"quantizer": "absmax", "quantizer_conf": {"exclude": ["*conv*"]}})
    packed = pack_model(made, {"whisper": tiny.HEADS})
    assert 0 < packed.weights[QUERY].scales[5] < 1e-30
    for runtime in (ggml, ctranslate2):
        assert "e-0" in str(runtime.export(packed, tmp_path / runtime.__name__))


@pytest.mark.parametrize("command", [export_whisper_cpp, export_ctranslate2])
def test_other_files_are_refused(tmp_path, command):
    linear = nn.Sequential(nn.Linear(8, 4))
    espnet_rand.quantize(linear, {"quantizer": "absmax"})
    assert "no Whisper model: it has 0.bias" in refused(command, pack_model(linear), tmp_path)
    torch.save(linear.state_dict(), tmp_path / "float.pth")
    with pytest.raises(SystemExit, match="float.pth is not a packed file. Fix: espnet_rand.bin.pack_weights"):
        command.main([str(tmp_path / "float.pth"), "--output", str(tmp_path / "new")])
    damaged = bytearray((tmp_path / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(SystemExit, match="damaged: the checksum does not fit"):
        command.main([str(tmp_path / "damaged"), "--output", str(tmp_path / "new")])
    with pytest.raises(SystemExit, match="No such file"):
        command.main([str(tmp_path / "none"), "--output", str(tmp_path / "new")])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"info": {}}, "how many attention heads share the 64 dimensions"),
        ({"info": {"whisper": {"n_audio_head": 5, "n_text_head": 1}}}, "how many attention heads"),
        ({"info": {"whisper": {**tiny.HEADS, "start_of_transcript": -1}}}, "not OpenAI's vocabulary"),
        ({"floats": ("encoder.encoders.ln_post.bias", None)}, "it lacks encoder.ln_post.bias"),
        ({"floats": ("encoder.encoders.ln_post.bias", torch.zeros(3))}, "ln_post.bias is (3,), in OpenAI's (64,)"),
        ({"floats": ("normalize.mean", torch.zeros(80))}, "no Whisper model: it has normalize.mean"),
        ({"floats": ("decoder.decoders.token_embedding.ori_emb.weight", torch.zeros(2, 2))}, "ori_emb.weight"),
    ],
)
def test_models_that_are_not_openai_s_are_refused(groups, tmp_path, changes, message):
    if "floats" in changes:
        name, tensor = changes["floats"]
        floats = {**groups.floats, name: tensor}
        changes = {"floats": {name: one for name, one in floats.items() if one is not None}}
    with pytest.raises(ExportError) as raised:
        ggml.export(replace(groups, **changes), tmp_path / "out")
    assert message in str(raised.value) and not list(tmp_path.iterdir())


def test_a_directory_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(ExportError, match=f"{tmp_path} is there already"):
        ctranslate2.export(tiny.packed({"bits": 8}), tmp_path)
    assert (tmp_path / "mine").exists()


def test_other_features_are_refused(tmp_path):
    with pytest.raises(ExportError, match="takes 40 mel bands and 1500 frames"):
        ggml.export(tiny.packed(GROUP32, mels=40), tmp_path / "out")


def test_heads_of_openai_s_sizes_need_not_be_said():
    assert whisper._heads(None, 384) == 6 and whisper._heads(None, 1280) == 20


def test_a_ctc_layer_is_left_out_and_said(groups, tmp_path):
    with_ctc = replace(groups, floats={**groups.floats, "ctc.ctc_lo.bias": torch.zeros(4)})
    assert "left out: ctc.ctc_lo.bias" in str(ggml.export(with_ctc, tmp_path / "out"))


def test_espnet_s_packed_files_say_heads_and_vocabulary(tmp_path):
    config = espnet_config(tmp_path)
    output = tmp_path / "packed"
    quantize_weights.main(["--train_config", str(config), "--output", str(output), "--quantizer", "absmax"])
    assert read_packed(output).info["whisper"] == {"n_audio_head": 2, "n_text_head": 2, "start_of_transcript": 0}
    with pytest.raises(ExportError, match="30 tokens are not OpenAI's vocabulary"):
        whisper.describe(read_packed(output), lambda weight: "", "")


@pytest.mark.parametrize("missing", ["whisper.tokenizer", "ctranslate2.specs"])
def test_a_missing_package_is_said(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    said = refused(export_ctranslate2, tiny.packed({"bits": 8}), tmp_path)
    assert missing in said and "pip install 'espnet_rand[export]'" in said


def test_onnx_for_sherpa_is_missing(groups, tmp_path):
    write_packed(tmp_path / "model.safetensors", groups)
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub/onnx.py").write_text("raise ModuleNotFoundError('No module named onnx')")
    command = [sys.executable, "-m", "espnet_rand.bin.export_sherpa_onnx", "--output", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "stub"), *sys.path])}
    done = subprocess.run(
        [*map(str, command), "--model_file", str(tmp_path / "model.safetensors")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1 and "No module named onnx. Fix: pip install" in done.stderr.splitlines()[-1]


def test_the_packed_file_is_not_overwritten(groups, tmp_path):
    write_packed(tmp_path / "model.safetensors", groups)
    (tmp_path / "link").symlink_to("model.safetensors")
    with pytest.raises(SystemExit, match="is the packed file itself. Fix"):
        export_whisper_cpp.main([str(tmp_path / "link"), "--output", str(tmp_path / "model.safetensors")])
    assert read_packed(tmp_path / "model.safetensors").info == groups.info
