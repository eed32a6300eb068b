"""The frontend kaldi_fbank: Kaldi's features, in batches, in ESPnet's tasks."""

import pytest
import torch
from torchaudio.compliance import kaldi

import espnet_rand
from tests.toolkit import tasks

espnet_rand.register()
from espnet_rand.options import OptionError  # noqa: E402
from espnet_rand.toolkit.kaldi_fbank import KaldiFbank  # noqa: E402

SPEECH = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))


def of_torchaudio(samples, rate, bins):
    options = {"num_mel_bins": bins, "high_freq": -400, "snip_edges": False, "sample_frequency": rate}
    return kaldi.fbank(samples[None], **options)


@pytest.mark.parametrize("rate, bins", [(16000, 80), (8000, 40), ("16k", 23)])
@pytest.mark.parametrize("samples", [8000, 7923, 401])
def test_they_are_kaldis(rate, bins, samples):
    hertz = 16000 if rate == "16k" else rate
    features, lengths = KaldiFbank(rate, bins)(SPEECH[:, :samples], torch.tensor([samples, samples]))
    expected = torch.stack([of_torchaudio(row[:samples], hertz, bins) for row in SPEECH])
    assert lengths.tolist() == [expected.shape[1]] * 2
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-3)


def test_they_are_sherpa_onnxs(tmp_path):
    pytest.importorskip("sherpa_onnx")
    from tests.export.sherpa_features import heard

    samples = torch.cat([SPEECH[0, :3000], torch.zeros(1000), 0.001 * SPEECH[1, :1000], 8 * SPEECH[1, :321]])
    features, _ = KaldiFbank()(samples[None], torch.tensor([len(samples)]))
    torch.testing.assert_close(features[0], torch.tensor(heard(tmp_path, samples.numpy())).float(), rtol=0, atol=1e-3)


def test_what_is_beside_a_recording_in_a_batch_changes_nothing():
    frontend = KaldiFbank()
    alone, _ = frontend(SPEECH[:1, :5000], torch.tensor([5000]))
    together, lengths = frontend(SPEECH, torch.tensor([5000, 8000]))
    assert lengths.tolist() == [31, 50]
    torch.testing.assert_close(together[:1, :31], alone)
    assert not together[0, 31:].any()


def test_a_recording_shorter_than_a_frame_is_mirrored_again():
    features, lengths = KaldiFbank()(SPEECH[:, :90], torch.tensor([90, 20]))
    assert lengths.tolist() == [1, 0] and features.isfinite().all()


def test_training_adds_dither_and_evaluation_none():
    frontend, lengths = KaldiFbank(dither=0.01), torch.tensor([8000, 8000])
    clean = frontend.eval()(SPEECH, lengths)[0]
    assert torch.equal(clean, KaldiFbank()(SPEECH, lengths)[0])
    assert (frontend.train()(SPEECH, lengths)[0] - clean).abs().mean() > 0.01


@pytest.mark.parametrize(
    "options, key",
    [
        ({"fs": 22050}, "fs"),
        ({"fs": "fast"}, "fs"),
        ({"fs": 16}, "fs"),
        ({"n_mels": 2}, "n_mels"),
        ({"dither": -1}, "dither"),
    ],
)
def test_an_option_that_is_off_is_refused(options, key):
    with pytest.raises(OptionError, match=f"frontend_conf: {key}"):
        KaldiFbank(**options)


def test_options_of_espnets_frontend_are_named():
    with pytest.raises(OptionError, match="take out n_fft, hop_length"):
        KaldiFbank(n_fft=512, hop_length=160)


@pytest.mark.parametrize("name", ["asr", "st", "slu", "asr_transducer"])
def test_tasks_have_it(name, tmp_path):
    conf = {"fs": 16000, "n_mels": 20}
    task, folder = tasks.write_config(name, tmp_path / name, frontend="kaldi_fbank", frontend_conf=conf)
    model, _ = task.build_model_from_file(folder / "config.yaml")
    assert isinstance(model.frontend, KaldiFbank)
    features, lengths = model.eval().encode(SPEECH, torch.tensor([8000, 6000]))[:2]
    assert features.isfinite().all() and len(lengths) == 2


def test_a_training_and_its_decoding(corpus, train, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text

    config = corpus.write_config({"frontend": "kaldi_fbank", "frontend_conf": {"n_mels": 20}}, "kaldi.yaml")
    train("--config", config, "--output_dir", tmp_path)
    recognizer = Speech2Text(tmp_path / "config.yaml", tmp_path / "valid.loss.best.pth", beam_size=2)
    assert recognizer.asr_model.frontend.output_size() == 20 and recognizer(SPEECH[0])
