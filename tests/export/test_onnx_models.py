"""ESPnet models in ONNX Runtime: the packed file's codes, and the log-probabilities that it gives."""

import numpy as np
import onnxruntime
import pytest
import torch

import espnet_rand
from espnet_rand.bin import export_onnx
from espnet_rand.packing import pack_model, write
from tests.toolkit import tasks

espnet_rand.register()

TRANSFORMER = {**tasks.CONFORMER, "encoder": "transformer", "encoder_conf": {"output_size": 16, **tasks.SMALL}}
BRANCHES = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "cgmlp_linear_units": 24, "cgmlp_conv_kernel": 3}
KINDS = {
    "conformer": {},
    "e_branchformer": {
        "encoder": "e_branchformer",
        "encoder_conf": {
            **BRANCHES,
            "use_ffn": True,
            "macaron_ffn": True,
            "linear_units": 16,
            "input_layer": "conv2d1",
        },
        "normalize": "utterance_mvn",
        "frontend_conf": {"n_fft": 400, "win_length": 320, "hop_length": 160, "n_mels": 16},
    },
    "branchformer": {
        "encoder": "branchformer",
        "encoder_conf": {
            **BRANCHES,
            "rel_pos_type": "legacy",
            "use_attn": True,
            "attention_layer_type": "legacy_rel_selfattn",
        },
    },
    "transformer": {**TRANSFORMER, "input_size": 16, "frontend": None},
}


def make(folder, name="asr", conf=None, **more):
    """A model of random weights in `folder`: config.yaml, model.safetensors."""
    conf = {"bits": 4, "mode": 1, **(conf or {})}
    task, folder = tasks.write_config(name, folder, quantizer="rand", quantizer_conf=conf, **more)
    torch.manual_seed(0)
    model, _ = task.build_model_from_file(folder / "config.yaml")
    write(folder / "model.safetensors", pack_model(model))
    return folder


def export(folder, *options):
    """A session of ONNX Runtime with what the command writes."""
    output = folder / "-".join(["onnx", *map(str, options)])
    export_onnx.main(["--model_file", str(folder / "model.safetensors"), "--output", str(output), *map(str, options)])
    return session(output / "model.onnx")


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def decoded(monkeypatch):
    """What the packed model in `folder` gives for an input, computed in float."""
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")

    def decoded(folder, x):
        task = tasks.find_task("asr")
        model, _ = task.build_model_from_file(folder / "config.yaml", folder / "model.safetensors")
        with torch.no_grad():
            encoded, _ = model.encode(torch.from_numpy(x), torch.tensor([x.shape[1]]))
            return model.ctc.log_softmax(encoded).numpy()

    return decoded


def noise(kind, seconds):
    shape = (1, int(100 * seconds), 16) if kind == "transformer" else (1, int(16000 * seconds))
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_log_probabilities_are_those_of_the_packed_model(tmp_path, decoded, kind):
    folder = make(tmp_path / "model", **KINDS[kind])
    graph = export(folder, "--exact", "true")
    for seconds in (0.5, 2.37):
        x = noise(kind, seconds)
        np.testing.assert_allclose(run(graph, x), decoded(folder, x), atol=1e-4)


def run(graph, x):
    return graph.run(None, {graph.get_inputs()[0].name: x})[0]
