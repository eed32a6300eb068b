"""ESPnet models in ONNX Runtime: the packed file's codes, and the log-probabilities that it gives."""

import hashlib
import subprocess
import sys
import wave

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import espnet_rand
from espnet_rand.bin import export_onnx
from espnet_rand.export.codes import ExportError
from espnet_rand.export.examples import decode_onnx
from espnet_rand.packing import pack_model, read_packed, write_packed
from espnet_rand.toolkit.exporting import checking
from espnet_rand.toolkit.exporting.tracing import trace
from tests.toolkit import tasks

espnet_rand.register()

INT4, INT8 = onnx.TensorProto.INT4, onnx.TensorProto.INT8
TRANSFORMER = {"encoder": "transformer", "encoder_conf": {"output_size": 16, **tasks.SMALL}}
BRANCHES = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "cgmlp_linear_units": 24, "cgmlp_conv_kernel": 3}
CTC = {"decoder": None, "model_conf": {"ctc_weight": 1.0}}
RNN = {name: tasks.MODELS["asr_rnn"][name] for name in ("decoder", "decoder_conf")}
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
        "normalize_conf": {"norm_vars": True},
        "preencoder": "linear",
        "preencoder_conf": {"input_size": 16, "output_size": 12},
        "frontend_conf": {"n_fft": 400, "win_length": 320, "hop_length": 160, "n_mels": 16},
    },
    "branchformer": {
        "encoder": "branchformer",
        "normalize": "global_mvn",
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
    if more.get("normalize") == "global_mvn":
        folder.parent.mkdir(exist_ok=True)
        sums = np.linspace(-9.0, 9.0, 16)
        np.savez(folder.parent / "stats.npz", count=3, sum=sums, sum_square=sums**2 + 5)
        more["normalize_conf"] = {"stats_file": str(folder.parent / "stats.npz")}
    conf = {"bits": 4, "mode": 1, **(conf or {})}
    task, folder = tasks.write_config(name, folder, quantizer="rand", quantizer_conf=conf, **more)
    torch.manual_seed(0)
    model, _ = task.build_model_from_file(folder / "config.yaml")
    write_packed(folder / "model.safetensors", pack_model(model))
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


def run(graph, x):
    return graph.run(None, {graph.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("kind", KINDS)
def test_exact_log_probabilities_are_those_of_the_packed_model(tmp_path, decoded, kind):
    folder = make(tmp_path / "model", **KINDS[kind], **CTC)
    graph = export(folder, "--exact", "true")
    for seconds in (0.5, 2.37):
        x = noise(kind, seconds)
        np.testing.assert_allclose(run(graph, x), decoded(folder, x), atol=1e-4)


@pytest.mark.parametrize("layer", ["conv2d2", "conv2d", "conv2d8"])
def test_log_probabilities_are_right_at_all_lengths(tmp_path, decoded, layer):
    """Whatever the numbers of frames leave over when they are divided."""
    encoder = {**tasks.CONFORMER["encoder_conf"], "input_layer": layer}
    frontend = {"n_fft": 256, "hop_length": 80, "n_mels": 16}
    folder = make(tmp_path / "model", encoder_conf=encoder, frontend_conf=frontend, **CTC)
    graph = export(folder, "--exact", "true")
    for frames in range(60, 68):
        x = noise("conformer", frames / 200)
        np.testing.assert_allclose(run(graph, x), decoded(folder, x), atol=1e-5)


class Scaled(torch.nn.Module):
    """Numbers times `by`, which is given by their length where it is none."""

    def __init__(self, by=None):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * (x.shape[1] if self.by is None else self.by)


def test_a_graph_that_is_right_at_the_length_of_its_example_alone_is_refused():
    example, dynamic = {"x": torch.ones(1, 50)}, {"x": {1: "length"}}
    wanted = checking.compute(Scaled(), example, dynamic, {})
    checking.check(trace(Scaled(), example, dynamic, ["y"]), "model.onnx", wanted)
    with pytest.raises(ExportError, match="model.onnx: .* does not compute what ESPnet computes.*Fix"):
        checking.check(trace(Scaled(50), example, dynamic, ["y"]), "model.onnx", wanted)


def test_a_transform_of_any_size_is_exact(tmp_path, decoded):
    folder = make(tmp_path / "model", frontend_conf={"n_fft": 400, "hop_length": 160, "n_mels": 16}, **CTC)
    x = noise("conformer", 1.5)
    np.testing.assert_allclose(
        run(export(folder, "--exact", "true", "--longest", "1.6"), x), decoded(folder, x), atol=1e-5
    )


@pytest.fixture(scope="module")
def conformer(tmp_path_factory):
    """A folder with a model, and the one written for it."""
    folder = make(tmp_path_factory.mktemp("conformer") / "model", conf={"overrides": {"ctc": {"bits": 8}}})
    export(folder, "--longest", "3")
    return folder, folder / "onnx---longest-3"


def test_the_files_hold_the_packed_codes_and_what_a_program_needs(conformer):
    folder, output = conformer
    packed = read_packed(folder / "model.safetensors")
    graphs = [onnx.load(output / file) for file in ("model.onnx", "decoder.onnx")]
    stored = [tensor for graph in graphs for tensor in graph.graph.initializer]
    arrays = {tensor.name: tensor for tensor in stored}
    for name, weight in packed.weights.items():
        codes = numpy_helper.to_array(arrays[name]).astype(np.int8)
        assert np.array_equal(codes.flatten(), weight.codes().flatten().numpy())
        assert [tensor.name for tensor in stored].count(name) == 1
        for file in ("model.onnx", "decoder.onnx"):
            assert weight.values().numpy().tobytes() not in (output / file).read_bytes()
    assert {arrays[name].data_type for name in ("ctc.ctc_lo.weight", "encoder.embed.out.weight")} == {INT8, INT4}
    assert (output / "tokens.txt").read_text().splitlines() == [f"{t} {i}" for i, t in enumerate(tasks.TOKENS)]
    about = {entry.key: entry.value for entry in graphs[0].metadata_props}
    assert about["packed_file_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (about["sample_rate"], about["hop_length"], about["subsampling"]) == ("16000", "128", "4")
    assert (about["type"], about["vocab_size"], about["blank_id"], about["sos_id"]) == ("ctc_attention", "6", "0", "5")
    assert str(folder).encode() not in (output / "model.onnx").read_bytes()


def test_integers_are_within_the_rounding_of_activations(conformer, decoded):
    folder, output = conformer
    x = noise("conformer", 2.0)
    found, expected = run(session(output / "model.onnx"), x), decoded(folder, x)
    assert 0 < np.abs(found - expected).max() < 0.1


def test_the_example_needs_no_torch(conformer, tmp_path):
    x = noise("conformer", 1.0)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((x[0] * 3000).astype("<i2").tobytes())
    program = (
        "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert not {'torch', 'espnet_rand', 'onnx'} & {*sys.modules}"
    )
    command = [sys.executable, "-I", "-c", program, decode_onnx.__file__, tmp_path / "a.wav"]
    command += ["--model", conformer[1], "--nbest=2"]
    said = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout.splitlines()
    best, *hypotheses = [line.split("\t") for line in said]
    assert [kind for kind, *_ in hypotheses] == ["  ctc", "  ctc", "  attention"]
    samples = (x * 3000).astype(np.int16).astype(np.float32) / 32768
    assert decode_onnx.decode(decode_onnx.Model(conformer[1]), samples[:, :500]) == [("too short", [], None)]
    ids, _ = decode_onnx.ctc_search(run(session(conformer[1] / "model.onnx"), samples)[0])[0]
    assert best == [str(tmp_path / "a.wav"), decode_onnx.Model(conformer[1]).text(ids)] and hypotheses[0][2] == best[1]


def test_longer_recordings_end_the_run(conformer):
    graph = session(conformer[1] / "model.onnx")
    longest = int(graph.get_modelmeta().custom_metadata_map["longest_frames"])
    samples = 128 * (4 * longest + 2)  # the last frame of features is the last of an encoder's
    assert run(graph, np.zeros((1, samples), dtype=np.float32)).shape[1] == longest
    for more in (4 * 128, 8 * 128, 16000):
        with pytest.raises(Exception, match="out of data bounds"):
            run(graph, np.zeros((1, samples + more), dtype=np.float32))


@pytest.mark.parametrize(
    "name, more, options, message",
    [
        ("asr_streaming", {}, [], "encoder ContextualBlockConformerEncoder .*ConformerEncoder, EBranchformerEncoder"),
        ("asr_rnn", {}, [], "encoder VGGRNNEncoder"),
        ("asr", {"frontend": "sliding_window", "frontend_conf": {}}, [], "frontend SlidingWindow"),
        ("asr_rnn", {**TRANSFORMER, **RNN, "model_conf": {"ctc_weight": 0.0}}, [], "no CTC, and decoder RNNDecoder"),
        ("asr", {}, ["--longest", "500"], "--longest: 500 s are not possible. Fix: more than 0, and 159.9 at most"),
        ("asr", {}, ["--longest", "nan"], "--longest: nan s are not possible"),
        ("asr", {"speech_volume_normalize": 0.5}, [], "trained with speech_volume_normalize"),
        ("asr", {"conf": {"granularity": "group", "group_size": 10}}, [], "scale for each 10 weights .*--exact true"),
        ("lm", {}, ["--task", "lm"], "model ESPnetLanguageModel"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(tmp_path, name, more, options, message):
    folder = make(tmp_path / "model", name, **more)
    with pytest.raises(SystemExit, match=message) as stopped:
        export(folder, *options)
    assert "\n" not in stopped.value.code and not list(tmp_path.glob("*/onnx*/*"))


def test_files_of_another_model_are_not_mixed(tmp_path):
    folder = make(tmp_path / "model", **CTC)
    (folder / "onnx").mkdir()
    (folder / "onnx/joint.onnx").write_bytes(b"")
    with pytest.raises(SystemExit, match="onnx has files of another model: joint.onnx. Fix: a new directory"):
        export(folder)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    folder = make(tmp_path / "model")
    for name in [name for name in sys.modules if name.startswith("espnet_rand.") and "export" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit, match=r"onnx.*Fix: pip install 'espnet_rand\[export\]'"):
        export(folder)


def test_damaged_and_missing_files_are_named(tmp_path):
    folder = make(tmp_path / "model")
    packed = folder / "model.safetensors"
    packed.write_bytes(packed.read_bytes()[:-3])
    with pytest.raises(SystemExit, match="model.safetensors: not a packed model, or cut off"):
        export(folder)
    torch.save({}, packed)
    with pytest.raises(SystemExit, match="model.safetensors is not packed. Fix: "):
        export(folder)
    packed.unlink()
    with pytest.raises(SystemExit, match="--model_file: no such file"):
        export(folder)


GRU = {
    **TRANSFORMER,
    "decoder": "transducer",
    "decoder_conf": {"num_layers": 2, "hidden_size": 12, "rnn_type": "gru"},
    "joint_net_conf": {"joint_space_size": 10},
}


@pytest.mark.parametrize("name, more", [("asr", GRU), ("asr_transducer", {})])
def test_transducers(tmp_path, monkeypatch, name, more):
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    folder = make(tmp_path / "model", name, **more)
    options = ["--task", name, "--exact", "true"]
    encoder = export(folder, *options)
    prediction, joint = (session(folder / f"onnx-{'-'.join(options)}/{file}.onnx") for file in ("prediction", "joint"))
    model, _ = tasks.find_task(name).build_model_from_file(folder / "config.yaml", folder / "model.safetensors")
    model.decoder.set_device("cpu")
    x, tokens = noise("", 1.0), [2, 4, 3]
    state = {entry.name: np.zeros(entry.shape, dtype=np.float32) for entry in prediction.get_inputs()[1:]}
    with torch.no_grad():
        encoded, _ = model.encode(torch.from_numpy(x), torch.tensor([x.shape[1]]))
        embedded = model.decoder.embed(torch.tensor([tokens]))
        predicted, states = model.decoder.rnn_forward(embedded, model.decoder.init_state(1))
        expected = model.joint_network(encoded[:, -1], predicted[:, -1]).log_softmax(-1)
    for token in tokens:
        predicted, *after = prediction.run(None, {"token": np.array([[token]]), **state})
        state = dict(zip(state, after))
    for found, wanted in zip(state.values(), states):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    found = joint.run(None, {"encoded": run(encoder, x)[:, -1], "predicted": predicted})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    greedy = model.joint_network, model.decoder, encoded[0]
    files = decode_onnx.Model(folder / f"onnx-{'-'.join(options)}")
    ids = decode_onnx.transducer_greedy(files, run(encoder, x), most=1)
    assert ids and ids == espnets_greedy(*greedy)


@torch.no_grad()
def espnets_greedy(joint, decoder, encoded):
    """As ESPnet's greedy search: one token of a frame at most."""
    state, ids = decoder.init_state(1), []
    predicted, state = decoder.rnn_forward(decoder.embed(torch.tensor([[0]])), state)
    for frame in encoded:
        token = int(joint(frame, predicted[0, 0]).argmax())
        if token:
            ids.append(token)
            predicted, state = decoder.rnn_forward(decoder.embed(torch.tensor([[token]])), state)
    return ids


@pytest.mark.parametrize("conf", [{}, {"normalize_before": False}])
def test_attention_decoders(tmp_path, monkeypatch, decoded, conf):
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    folder = make(tmp_path / "model", **{**TRANSFORMER, "decoder_conf": {**tasks.SMALL, "num_blocks": 2, **conf}})
    graph, step = export(folder, "--exact", "true"), session(folder / "onnx---exact-true/decoder.onnx")
    model, _ = tasks.find_task("asr").build_model_from_file(folder / "config.yaml", folder / "model.safetensors")
    x, tokens = noise("", 1.0), [5, 2, 4, 3]
    log_probs, *speech = graph.run(None, {"speech": x})
    np.testing.assert_allclose(log_probs, decoded(folder, x), atol=1e-4)
    with torch.no_grad():
        encoded, lengths = model.encode(torch.from_numpy(x), torch.tensor([x.shape[1]]))
        expected, _ = model.decoder(encoded, lengths, torch.tensor([tokens]), torch.tensor([4]))
    cache = [np.zeros((2, 2, 0, 8), dtype=np.float32)] * 2
    for place, token in enumerate(tokens):
        inputs = dict(zip(("keys", "values", "speech_keys", "speech_values"), (*cache, *speech)))
        found, *cache = step.run(None, {"token": np.array([[token]]), **inputs})
        np.testing.assert_allclose(found[0], expected[0, place].log_softmax(-1), atol=1e-4)
    ids = decode_onnx.attention_greedy(decode_onnx.Model(folder / "onnx---exact-true"), *speech)
    with torch.no_grad():
        given = torch.tensor([[5, *ids]])
        scores, _ = model.decoder(encoded, lengths, given, torch.tensor([given.shape[1]]))
    assert ids and scores[0].argmax(-1).tolist()[: len(ids)] == ids
