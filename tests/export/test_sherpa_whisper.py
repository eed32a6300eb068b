"""Whisper in sherpa-onnx itself: the packed file's codes, and the text of OpenAI's model with the decoded weights."""

import contextlib
import io

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from espnet_rand.bin import export_sherpa_onnx
from espnet_rand.packing import write_packed
from tests.export import tiny_whisper as tiny

sherpa_onnx = pytest.importorskip("sherpa_onnx")
whisper = tiny.whisper

EMBEDDING = "decoder.decoders.token_embedding.weight"
# in English groups of 32, in a multilingual model a scale a row, of convolutions too
KINDS = {
    "groups": ({"bits": 4, "granularity": "group", "group_size": 32}, {}),
    "rows": ({"bits": 8}, {"vocabulary": 51865, "exclude": ()}),
}


class Made:
    """A packed model, what the command makes of it, and sherpa-onnx with that."""

    def __init__(self, kind, folder):
        options, sizes = KINDS[kind]
        self.packed = tiny.packed(options, **sizes)
        self.model = tiny.decoded(self.packed, vocabulary=sizes.get("vocabulary", 51864))
        self.tokenizer = whisper.tokenizer.get_tokenizer("vocabulary" in sizes, language="de", num_languages=99)
        write_packed(folder / "model.safetensors", self.packed)
        self.folder = folder / "sherpa"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            export_sherpa_onnx.main(["--model_file", str(folder / "model.safetensors"), "--output", str(self.folder)])
        *_, self.call = printed.getvalue().splitlines()
        self.recognizer = eval(self.call.replace("language='en'", "language='de'"))

    def text(self, samples):
        """What sherpa-onnx says."""
        stream = self.recognizer.create_stream()
        stream.accept_waveform(tiny.RATE, samples)
        self.recognizer.decode_stream(stream)
        return stream.result.text

    @torch.no_grad()
    def expected(self, samples):
        """What a greedy search on OpenAI's model says, which hears 10 s of nothing behind the recording."""
        mel = whisper.log_mel_spectrogram(torch.from_numpy(samples))
        encoder, tokens = self.model.encoder, [*self.tokenizer.sot_sequence_including_notimestamps]
        start = len(tokens)
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(F.pad(mel, (0, 1000))[None])))).transpose(1, 2)
        x = x + encoder.positional_embedding[: x.shape[1]]
        for block in encoder.blocks:
            x = block(x)
        x = encoder.ln_post(x)
        for _ in range(int(mel.shape[1] / 100 * 6)):
            tokens.append(int(self.model.decoder(torch.tensor([tokens]), x)[0, -1].argmax()))
        return self.tokenizer.decode(tokens[start:])

    def constants(self):
        """All of both files, by their names."""
        graphs = (onnx.load(self.folder / f"{name}.onnx").graph for name in ("encoder", "decoder"))
        return {constant.name: numpy_helper.to_array(constant) for graph in graphs for constant in graph.initializer}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    return Made(request.param, tmp_path_factory.mktemp(request.param))


def test_its_text_is_that_of_a_greedy_search(made):
    samples = tiny.sound(1.5)
    text = made.text(samples)
    assert len(text) > 20 and text == made.expected(samples).strip()


def test_the_codes_are_those_of_the_packed_file(made):
    constants = made.constants()
    for name, weight in made.packed.weights.items():
        codes = weight.codes().flatten(1).numpy()
        if f"{name}.blocks" in constants:  # two codes in a byte, the first in the lower half, 8 more each
            pairs = constants[f"{name}.blocks"].reshape(len(codes), -1)
            stored = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(codes.shape).astype(np.int8) - 8
        else:
            stored = constants[name].astype(np.int8).reshape(codes.shape)
        assert np.array_equal(stored, codes), name


def test_no_matrix_is_in_float(made):
    large = [array for array in made.constants().values() if array.dtype == np.float32 and array.size > 64 * 64 * 4]
    assert all(array.shape[0] in (448, 1500, 51864, 51865) for array in large)  # positions; the embedding's scales


def refused(packed, folder):
    """What the command refuses a packed model with."""
    write_packed(folder / "model.safetensors", packed)
    with pytest.raises(SystemExit) as stopped:
        export_sherpa_onnx.main(["--model_file", str(folder / "model.safetensors"), "--output", str(folder / "out")])
    assert "\n" not in stopped.value.code and "Fix: " in stopped.value.code and not (folder / "out").exists()
    return stopped.value.code


def test_groups_that_are_no_blocks_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", None)
    packed = tiny.packed({"bits": 4, "overrides": {"*.mlp.0": {"granularity": "group", "group_size": 24}}})
    assert "blocks.0.mlp.0.weight" in (said := refused(packed, tmp_path)) and "24" in said


def test_a_vocabulary_that_is_not_openais_is_refused(tmp_path):
    assert "vocabulary" in refused(tiny.packed({"bits": 4}, vocabulary=100), tmp_path)
