"""Models of CTC in sherpa-onnx itself: the packed file's codes, and the text of ESPnet's log-probabilities."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import espnet_rand
from espnet_rand.bin import export_sherpa_onnx
from espnet_rand.packing import pack_model, read_packed, write_packed
from tests.toolkit import tasks

sherpa_onnx = pytest.importorskip("sherpa_onnx")
espnet_rand.register()
from espnet_rand.export.codes import ExportError  # noqa: E402
from espnet_rand.toolkit.exporting.sherpa import token_lines  # noqa: E402

KALDI = {"frontend": "kaldi_fbank", "frontend_conf": {"n_mels": 20}, "normalize": "utterance_mvn"}
TOKENS = ["<blank>", "<unk>", "a", "<space>", *"bcdefghijklmnop", "<sos/eos>"]


def sound(seconds, seed):
    """Noise whose volume changes, float32."""
    samples = torch.randn(round(16000 * seconds), generator=torch.Generator().manual_seed(seed))
    return (0.1 * samples * torch.arange(len(samples)).mul(6e-4).sin()).numpy()


SOUNDS = [sound(2, 0), sound(1.3, 1), sound(0.7, 2)]


def make(folder, **more):
    """A model of random weights in `folder`: config.yaml, model.safetensors."""
    task, folder = tasks.write_config("asr", folder, quantizer="rand", quantizer_conf={"bits": 4, "mode": 1}, **more)
    torch.manual_seed(0)
    model, _ = task.build_model_from_file(folder / "config.yaml")
    torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3)
    write_packed(folder / "model.safetensors", pack_model(model))
    return folder


def export(folder, *options):
    """The directory that the command writes."""
    output = folder / "sherpa"
    export_sherpa_onnx.main(["--model_file", str(folder / "model.safetensors"), "--output", str(output), *options])
    return output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, with what the command makes of it."""
    folder = make(tmp_path_factory.mktemp("sherpa") / "asr", token_list=TOKENS, **KALDI)
    export(folder)
    return folder


@pytest.fixture(scope="module")
def recognizer(made):
    files = [str(made / "sherpa" / name) for name in ("model.onnx", "tokens.txt")]
    return sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(*files, feature_dim=20)


def decode(recognizer, sounds):
    """The texts of sounds that are decoded together."""
    streams = [recognizer.create_stream() for _ in sounds]
    for stream, samples in zip(streams, sounds):
        stream.accept_waveform(16000, samples)
    recognizer.decode_streams(streams)
    return [stream.result.text for stream in streams]


@pytest.fixture
def expected(made, monkeypatch):
    """The texts of a greedy search on what ESPnet's model gives, decoded in float."""
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    model, _ = tasks.find_task("asr").build_model_from_file(made / "config.yaml", made / "model.safetensors")
    texts = []
    for samples in SOUNDS:
        with torch.no_grad():
            encoded, _ = model.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
            best = model.ctc.argmax(encoded)[0].unique_consecutive().tolist()
        texts.append("".join(TOKENS[i] for i in best if i).replace("<space>", " ").removeprefix(" "))
    return texts


def test_its_text_is_that_of_a_greedy_search(recognizer, expected):
    assert all(len(text) > 5 for text in expected) and any(" " in text for text in expected)
    assert [decode(recognizer, [samples])[0] for samples in SOUNDS] == expected


def test_recordings_in_a_batch_do_not_change_each_other(recognizer, expected):
    assert decode(recognizer, SOUNDS) == expected


def test_times_are_those_of_the_frames(recognizer):
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, SOUNDS[0])
    recognizer.decode_stream(stream)
    assert 1 < stream.result.timestamps[-1] < 2


def test_the_codes_are_those_of_the_packed_file(made):
    (loop,) = [node for node in onnx.load(made / "sherpa/model.onnx").graph.node if node.op_type == "Loop"]
    constants = {c.name: numpy_helper.to_array(c) for c in loop.attribute[0].g.initializer}
    packed = read_packed(made / "model.safetensors")
    heard = [name for name in packed.weights if name.startswith(("encoder.", "ctc."))]
    assert len(heard) > 10
    for name in heard:
        codes = packed.weights[name].codes().numpy()
        assert np.array_equal(constants[name].astype(np.int8).reshape(codes.shape), codes), name


def refused(folder, *options):
    """What the command refuses the model in `folder` with."""
    with pytest.raises(SystemExit) as stopped:
        export(folder, *options)
    assert "\n" not in stopped.value.code and "Fix: " in stopped.value.code and not (folder / "sherpa").exists()
    return stopped.value.code


def test_stock_features_are_refused_with_what_to_train(tmp_path):
    assert "frontend: default" in (said := refused(make(tmp_path / "asr"))) and "frontend: kaldi_fbank" in said


@pytest.mark.parametrize(
    "more, said",
    [
        ({"speech_volume_normalize": 1.0}, "speech_volume_normalize"),
        ({"encoder": "rnn", "encoder_conf": {"num_layers": 1, "hidden_size": 8, "output_size": 16}}, "encoder RNN"),
    ],
)
def test_what_it_does_not_do_is_refused(more, said, tmp_path):
    assert said in refused(make(tmp_path / "asr", **{**KALDI, **more}))


def test_a_float_checkpoint_is_refused(tmp_path):
    folder = make(tmp_path / "asr", **KALDI)
    torch.save({}, folder / "model.safetensors")
    assert "is not packed" in refused(folder)


def test_words_and_spaces_are_written_as_sherpa_onnx_joins_them():
    assert token_lines(["<blank>", "ab"], 0, "word") == "<blk> 0\n▁ab 1\n"
    with pytest.raises(ExportError, match="token 1, 'a b'"):
        token_lines(["<blank>", "a b"], 0, "bpe")
    with pytest.raises(ExportError, match="token_type: hugging_face"):
        token_lines(["<blank>"], 0, "hugging_face")
