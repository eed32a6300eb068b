"""Transducers in sherpa-onnx itself, of whole recordings and while one speaks: the text of ESPnet's own encoders."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import espnet_rand
from espnet_rand.bin import export_sherpa_onnx
from espnet_rand.packing import pack_model, read_packed, write_packed
from tests.export.test_sherpa import KALDI, SOUNDS, TOKENS
from tests.toolkit import tasks

sherpa_onnx = pytest.importorskip("sherpa_onnx")
espnet_rand.register()

BLOCK = {"block_type": "conformer", "hidden_size": 16, "linear_size": 16, "heads": 2, "conv_mod_kernel_size": 3}
CHUNK, LEFT, BEFORE = 8, 12, 11  # frames of the encoder twice; of features that chunks share
STREAMING = {"body_conf": [BLOCK], "main_conf": {"dynamic_chunk_training": True}, "input_conf": {"vgg_like": False}}
STATELESS = {"decoder": "stateless", "decoder_conf": {"embed_size": 8}}


def make(folder, **more):
    """A transducer of random weights in `folder`: config.yaml, model.safetensors."""
    options = {**KALDI, "normalize": None, "token_list": TOKENS, **STATELESS, "encoder_conf": STREAMING, **more}
    quantizer = {"quantizer": "rand", "quantizer_conf": {"bits": 4, "mode": 1}}
    task, folder = tasks.write_config("asr_transducer", folder, **options, **quantizer)
    torch.manual_seed(0)
    model, _ = task.build_model_from_file(folder / "config.yaml")
    torch.nn.init.normal_(model.joint_network.lin_out.weight, std=3)
    torch.nn.init.normal_(model.joint_network.lin_enc.weight)
    write_packed(folder / "model.safetensors", pack_model(model))
    return folder


def export(folder):
    """The loader's arguments for what the command writes."""
    output, windows = folder / "sherpa", ["--decoding_window", str(40 * CHUNK), "--left_context", str(LEFT)]
    model = ["--task", "asr_transducer", "--model_file", str(folder / "model.safetensors")]
    export_sherpa_onnx.main([*model, "--output", str(output), *windows])
    files = {name: str(output / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    return {**files, "tokens": str(output / "tokens.txt"), "feature_dim": 20}


@pytest.fixture
def decoded(monkeypatch):
    """ESPnet's model in `folder`, decoded in float."""
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")

    def decoded(folder):
        task = tasks.find_task("asr_transducer")
        return task.build_model_from_file(folder / "config.yaml", folder / "model.safetensors")[0]

    return decoded


@torch.no_grad()
def check_choices(model, encoded, tokens, times):
    """See that each token, and each blank, is the best of ESPnet's logits, or as good but for 8-bit activations.

    sherpa-onnx writes a token for a frame at most, and takes <unk> for a blank.
    """
    found = {
        round(time / 0.04): TOKENS.index("<space>" if token == " " else token) for token, time in zip(tokens, times)
    }
    assert len(found) == len(tokens) > 5 and max(found) < len(encoded)
    last, losses = 0, []
    for number, frame in enumerate(encoded):
        logits = model.joint_network(frame, model.decoder.embed(torch.tensor(last)))
        chosen = logits[found[number]] if number in found else logits[:2].max()
        losses.append(float((logits.max() - chosen) / logits.std()))
        last = found.get(number, last)
    assert max(losses) < 0.3 and np.mean(np.equal(losses, 0)) > 0.9, losses


def test_whole_recordings(tmp_path, decoded):
    folder = make(tmp_path / "asr", encoder_conf={"body_conf": [BLOCK]})
    recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(**export(folder))
    streams = [recognizer.create_stream() for _ in SOUNDS]
    for stream, samples in zip(streams, SOUNDS):
        stream.accept_waveform(16000, samples)
    recognizer.decode_streams(streams)
    model = decoded(folder)
    for stream, samples in zip(streams, SOUNDS):
        with torch.no_grad():
            encoded, _ = model.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        check_choices(model, encoded[0], stream.result.tokens, stream.result.timestamps)


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    """A streaming model, and the loader's arguments of what the command makes of it."""
    folder = make(tmp_path_factory.mktemp("streaming") / "asr")
    return folder, export(folder)


@torch.no_grad()
def encoded_in_chunks(model, samples):
    """What ESPnet's streaming encoder gives."""
    features, _ = model.frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    model.encoder.reset_cache(LEFT, "cpu")
    frames, start, size = [], 0, 4 * CHUNK + BEFORE
    while start + size < features.shape[1]:
        chunk, before = features[:, start : start + size], torch.tensor([[CHUNK * len(frames)]])
        frames.append(model.encoder.chunk_forward(chunk, torch.tensor([size]), before, left_context=LEFT)[0])
        start += 4 * CHUNK
    return torch.cat(frames)


def test_words_while_one_speaks(streaming, decoded):
    folder, files = streaming
    recognizer, model = sherpa_onnx.OnlineRecognizer.from_transducer(**files), decoded(folder)
    sounds = [np.concatenate([samples, np.zeros(8000, np.float32)]) for samples in SOUNDS[:2]]
    streams, early = [recognizer.create_stream() for _ in sounds], []
    for start in range(0, max(map(len, sounds)), 1600):
        for stream, samples in zip(streams, sounds):
            stream.accept_waveform(16000, samples[start : start + 1600])
        while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
        early.append(len(recognizer.tokens(streams[0])))
    for stream, samples in zip(streams, sounds):
        stream.input_finished()
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        encoded = encoded_in_chunks(model, samples)
        check_choices(model, encoded, recognizer.tokens(stream), recognizer.timestamps(stream))
    assert 5 < early[8] < early[-1], "tokens come while the sound does"


def test_the_codes_are_those_of_the_packed_file(streaming):
    folder, files = streaming
    graphs = [onnx.load(files[name]).graph for name in ("encoder", "decoder", "joiner")]
    constants = {c.name: numpy_helper.to_array(c) for graph in graphs for c in graph.initializer}
    for name, weight in read_packed(folder / "model.safetensors").weights.items():
        codes = weight.codes().numpy()
        assert np.array_equal(constants[name].astype(np.int8).reshape(codes.shape), codes), name


@pytest.mark.parametrize(
    "more, said",
    [
        ({"decoder": "rnn", "decoder_conf": {"embed_size": 8, "hidden_size": 8}}, "decoder: stateless"),
        ({"normalize": "utterance_mvn"}, "global_mvn"),
        ({"encoder_conf": {**STREAMING, "body_conf": [BLOCK, {**BLOCK, "conv_mod_kernel_size": 5}]}}, "several kinds"),
        ({"encoder_conf": {**STREAMING, "input_conf": {"vgg_like": True}}}, "vgg_like: false"),
        ({"frontend": "default", "frontend_conf": {"n_fft": 256, "n_mels": 20}}, "kaldi_fbank"),
    ],
)
def test_what_sherpa_onnx_does_not_have_is_refused(more, said, tmp_path):
    folder = make(tmp_path / "asr", **more)
    with pytest.raises(SystemExit) as stopped:
        export(folder)
    assert said in stopped.value.code and "Fix: " in stopped.value.code and not (folder / "sherpa").exists()


@pytest.mark.parametrize("option, value", [("--decoding_window", "650"), ("--left_context", "0")])
def test_an_option_that_is_off_is_refused(option, value, streaming, tmp_path):
    arguments = ["--model_file", str(streaming[0] / "model.safetensors"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=f"{option}: {value}"):
        export_sherpa_onnx.main([*arguments, option, value])
