"""Packed files in the places where ESPnet takes a model file."""

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand.packing import PackedFileError, pack_model, read_packed, write_packed

espnet_rand.register()
from espnet2.bin import pack  # noqa: E402
from espnet2.bin.asr_inference import Speech2Text  # noqa: E402
from espnet2.layers.create_adapter import create_adapter_fn_table  # noqa: E402
from espnet2.tasks.asr import ASRTask  # noqa: E402
from espnet_model_zoo.downloader import ModelDownloader  # noqa: E402

from espnet_rand.toolkit.commands import checkpoints  # noqa: E402
from espnet_rand.toolkit.hooks.packed import without_weights  # noqa: E402


@pytest.fixture(scope="module")
def trained(corpus, train, tmp_path_factory):
    """An experiment directory of a model trained with RAND, and its packed file."""
    exp = tmp_path_factory.mktemp("packed")
    train("--config", corpus.config, "--output_dir", exp, "--quantizer", "rand", "--quantizer_conf", "mode=3")
    model, _ = ASRTask.build_model_from_file(exp / "config.yaml", exp / "valid.loss.best.pth")
    path = exp / "model.safetensors"
    write_packed(path, pack_model(model))
    return exp, path


def recognize(exp, model):
    return hypotheses(Speech2Text(exp / "config.yaml", model, beam_size=3, maxlenratio=-8.0))


def hypotheses(speech2text):
    speech = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    return [(text, float(hypothesis.score)) for text, _, _, hypothesis in speech2text(speech)]


def test_speech2text_decodes_it_as_the_checkpoint(trained, monkeypatch):
    exp, path = trained
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    assert recognize(exp, path) == recognize(exp, exp / "valid.loss.best.pth")


def test_integer_compute_scores_nearly_the_same(trained):
    exp, path = trained
    (_, score), *_ = recognize(exp, path)
    (_, reference), *_ = recognize(exp, exp / "valid.loss.best.pth")
    assert score == pytest.approx(reference, rel=0.02) and score != reference


def test_the_configuration_needs_no_quantizer(trained, tmp_path, monkeypatch):
    exp, path = trained
    config = yaml.safe_load((exp / "config.yaml").read_text())
    del config["quantizer"], config["quantizer_conf"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    assert recognize(tmp_path, path) == recognize(exp, path)


def test_in_an_archive_of_the_model_zoo(trained, tmp_path, monkeypatch):
    exp, path = trained
    monkeypatch.chdir(exp)
    options = ["--asr_train_config", "config.yaml", "--asr_model_file", path.name]
    pack.main(["asr", "--outpath", str(tmp_path / "asr.zip"), *options])
    files = ModelDownloader(tmp_path).download_and_unpack(str(tmp_path / "asr.zip"))
    assert files["asr_model_file"] != path
    assert hypotheses(Speech2Text(**files, beam_size=3, maxlenratio=-8.0)) == recognize(exp, path)


def test_no_float_copy_of_an_integer_layer_is_built(trained, monkeypatch):
    exp, path = trained
    made = []
    original = torch.nn.Linear.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        made.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", init)
    ASRTask.build_model_from_file(exp / "config.yaml", path)
    assert made and set(made) == {"meta"}
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"


def test_a_model_that_loads_weights_while_it_is_built_neither_reads_nor_keeps_them(tmp_path):
    """As Whisper does."""
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pth")
    with without_weights():
        state = torch.load(tmp_path / "weights.pth")
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
        model[0].load_state_dict(state)
        model.to("cpu")
    assert {tensor.device.type for tensor in (*state.values(), *model[0].parameters())} == {"meta"}
    assert torch.load(tmp_path / "weights.pth")["weight"].device.type == "cpu"


def test_a_file_for_another_model_is_refused(trained, tmp_path):
    exp, path = trained
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config["encoder_conf"]["linear_units"] = 24
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(PackedFileError, match="model.safetensors: made for another architecture.*feed_forward"):
        Speech2Text(tmp_path / "config.yaml", path)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("backend", ["auto", "dequantize"])
def test_it_decodes_in_another_dtype(trained, monkeypatch, backend, dtype):
    exp, path = trained
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", backend)
    speech2text = Speech2Text(exp / "config.yaml", path, dtype=dtype, beam_size=3, maxlenratio=-8.0)
    (_, score), *_ = hypotheses(speech2text)
    (_, reference), *_ = recognize(exp, exp / "valid.loss.best.pth")
    assert score == pytest.approx(reference, rel=0.02)


def test_adapters_that_are_not_part_of_the_weights_are_refused(trained, tmp_path, monkeypatch):
    exp, path = trained
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config.update(use_adapter=True, adapter="houlsby", adapter_conf={})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(PackedFileError, match="houlsby adapters cannot be packed"):
        Speech2Text(tmp_path / "config.yaml", path)
    monkeypatch.setitem(create_adapter_fn_table, "houlsby", lambda model: None)
    model, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml", exp / "valid.loss.best.pth")
    with pytest.raises(PackedFileError, match="houlsby adapters cannot be packed"):
        checkpoints.pack(model)


def test_a_damaged_file_is_refused(trained, tmp_path):
    exp, path = trained
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-5])
    with pytest.raises(PackedFileError, match="cut.safetensors"):
        Speech2Text(exp / "config.yaml", tmp_path / "cut.safetensors")


def test_a_packed_file_is_small(trained):
    _, path = trained
    packed = read_packed(path)
    assert {w.bits for w in packed.weights.values()} == {4}
    numbers = sum(w.packed.numel() for w in packed.weights.values()) * 2
    assert numbers > 5000 and sum(w.bytes for w in packed.weights.values()) < numbers
