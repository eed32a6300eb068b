"""ESPnet3's own recipe of its wheel, egs3/mini_an4, unmodified: float, RAND from it, decoding."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

import espnet_rand

pytest.importorskip("dask_jobqueue", reason="ESPnet3 decodes with dask")
espnet_rand.register()

from espnet2.bin.asr_inference import Speech2Text  # noqa: E402

FLOAT = {
    "defaults": ["training_asr_transformer"],
    "model": {
        "encoder_conf": {"output_size": 16, "num_blocks": 1},
        "decoder_conf": {"num_blocks": 1},
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "${stats_dir}/train/feats_stats.npz"},
    },
    "parallel": None,
    "trainer": {"max_epochs": 1, "limit_train_batches": 2},
}
RAND = {
    "defaults": ["float"],
    "model": {
        "quantizer_config": "rand_m3_ste_w4",
        "init_param": ["exp/float/last.ckpt"],
        "teacher": "exp/float/last.ckpt",
    },
}
INFERENCE = {
    "defaults": ["inference"],
    "dataset": {"test": [{"name": "test", "data_src_args": {"split": "test"}}]},
    "model": {"asr_model_file": "${exp_dir}/last.ckpt", "maxlenratio": -3},
}
# of the recordings, which are not compressed; ESPnet's tools/installers make the real one
SPH2PIPE = f"""#!{sys.executable}
import io, sys, soundfile
speech, rate = soundfile.read(sys.argv[-1], dtype="int16")
wav = io.BytesIO()
soundfile.write(wav, speech, rate, format="WAV")
sys.stdout.buffer.write(wav.getvalue())
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A copy of the recipe, with our configurations and sph2pipe; the current directory."""
    package = importlib.util.find_spec("egs3") and importlib.util.find_spec("egs3.mini_an4")
    stock = package and Path(package.submodule_search_locations[0]) / "esp2_asr"
    if not (stock and (stock / "downloads.tar.gz").is_file()):
        pytest.skip("this ESPnet brings no egs3/mini_an4 with its recordings")
    root = tmp_path_factory.mktemp("mini_an4")
    recipe = shutil.copytree(stock, root / "esp2_asr")
    for name, config in (("float", FLOAT), ("rand", RAND), ("infer", INFERENCE)):
        (recipe / f"conf/{name}.yaml").write_text(yaml.safe_dump(config))
    sph2pipe = root / "bin/sph2pipe"
    sph2pipe.parent.mkdir()
    sph2pipe.write_text(SPH2PIPE)
    sph2pipe.chmod(0o755)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PATH", str(sph2pipe.parent), prepend=":")
        monkeypatch.setenv("PYTHONPATH", str(Path(espnet_rand.__file__).parents[1]), prepend=":")
        monkeypatch.chdir(recipe)
        yield recipe


def stages(run, *names, training):
    done = run(
        "espnet-rand", "run.py", "--stages", *names, "--training_config", f"conf/{training}.yaml",
        "--inference_config", "conf/infer.yaml", "--metrics_config", "conf/metrics.yaml",
    )  # fmt: skip
    return done.stdout + done.stderr


def test_float_rand_decode(recipe, run):
    said = stages(run, "create_dataset", "train_tokenizer", "collect_stats", training="float")
    said += stages(run, "train", training="float")
    assert "espnet_rand:" not in said and not (recipe / "exp/float/quantization.yaml").exists()

    stages(run, "collect_stats", training="rand")
    said = stages(run, "train", "infer", "measure", training="rand")
    assert "distilled from exp/float/last.ckpt" in said
    assert re.search(r"exp/float/last.ckpt: (\d+) of \1 tensors .* are reused", said)
    expdir = recipe / "exp/rand"
    config = yaml.safe_load((expdir / "config.yaml").read_text())
    assert config["quantizer_conf"]["bits"] == 4 and config["quantizer_config"] is None
    report = yaml.safe_load((expdir / "quantization.yaml").read_text())
    assert "ctc.ctc_lo.weight" in [entry["name"] for entry in report["quantized"]]
    assert len((expdir / "infer/test/text.scp").read_text().splitlines()) == 2
    assert json.loads((expdir / "infer/metrics.json").read_text())

    speech2text = Speech2Text("exp/rand/config.yaml", "exp/rand/last.ckpt")  # what `infer` decodes with
    state = torch.load(expdir / "last.ckpt", weights_only=True)["state_dict"]
    layer, weight = speech2text.asr_model.ctc.ctc_lo, state["ctc.ctc_lo.weight"]
    codes, (scales, _) = layer._quantized["weight"].quantizer.encode(
        weight, state["ctc.ctc_lo.weight__rand3p8_channel_w4_quantizer_scale"]
    )
    assert torch.equal(layer.weight, codes * scales.unsqueeze(1)) and codes.abs().max() <= 8
