"""The inference programs of other tasks take packed files, and give what the evaluation gives."""

import importlib
import sys

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand.packing import pack_model, write_packed
from tests.toolkit import tasks

espnet_rand.register()
from espnet_rand.toolkit.commands.checkpoints import find_task, task_names  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Of each task: config.yaml with a quantizer, a checkpoint of random weights, its packed file."""
    root = tmp_path_factory.mktemp("tasks")
    for name in ("asr_transducer", "mt", "asr_streaming", "lm"):
        task, folder = tasks.write_config(name, root / name, quantizer="rand", quantizer_conf={"bits": 4, "mode": 1})
        torch.manual_seed(0)
        model, _ = task.build_model_from_file(folder / "config.yaml")
        torch.save(model.state_dict(), folder / "model.pth")
        write_packed(folder / "model.safetensors", pack_model(model))
    return root


def both(made, task, recognize):
    """What `recognize(config, model)` says of the checkpoint and of the packed file."""
    return [recognize(made / task / "config.yaml", made / task / name) for name in ("model.pth", "model.safetensors")]


SPEECH = torch.randn(24000, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")


@pytest.mark.parametrize("backend", ["dequantize", "auto"])
def test_transducer(made, monkeypatch, backend):
    from espnet2.bin.asr_transducer_inference import Speech2Text

    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", backend)

    def recognize(config, model):
        return [(h.yseq, float(h.score)) for h in Speech2Text(config, model, beam_size=3)(SPEECH)]

    (tokens, score), (packed_tokens, packed_score) = (found[0] for found in both(made, "asr_transducer", recognize))
    if backend == "dequantize":
        assert (tokens, score) == (packed_tokens, packed_score)
    else:
        assert packed_score == pytest.approx(score, rel=0.1)


def test_translation(made):
    from espnet2.bin.mt_inference import Text2Text

    def translate(config, model):
        found = Text2Text(config, model, beam_size=3, maxlenratio=-6.0, ctc_weight=0.0)(torch.tensor([2, 3, 4, 2]))
        return [(text, float(hypothesis.score)) for text, _, _, hypothesis in found]

    checkpoint, packed = both(made, "mt", translate)
    assert checkpoint == packed


def test_streaming(made):
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

    def recognize(config, model):
        stream = Speech2TextStreaming(config, model, beam_size=3, ctc_weight=0.3)
        stream(SPEECH[:12000], is_final=False)
        return [(text, float(hypothesis.score)) for text, _, _, hypothesis in stream(SPEECH[12000:], is_final=True)]

    checkpoint, packed = both(made, "asr_streaming", recognize)
    assert checkpoint == packed


def test_language_model(made):
    from espnet2.bin.asr_inference import Speech2Text

    def recognize(config, model):
        speech2text = Speech2Text(
            made / "asr_streaming/config.yaml", made / "asr_streaming/model.safetensors",
            lm_train_config=config, lm_file=model, beam_size=3, maxlenratio=-6.0, lm_weight=1.0,
        )  # fmt: skip
        return [(text, float(hypothesis.score)) for text, _, _, hypothesis in speech2text(SPEECH)]

    checkpoint, packed = both(made, "lm", recognize)
    assert checkpoint == packed


def test_every_task_has_a_name():
    assert {"asr", "asr_transducer", "lm", "mt", "st"} <= set(task_names())
    assert find_task("mt") is importlib.import_module("espnet2.tasks.mt").MTTask


def test_builders_that_change_their_arguments(tmp_path):
    """BEATs takes its configuration out of them, and puts it back changed."""
    beats = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 16, "encoder_attention_heads": 2}
    conf = {"beats_config": {**beats, "embed_dim": 8, "decoder_layers": 1}, "is_pretraining": True}
    task = find_task("beats")
    argv, sys.argv = sys.argv, sys.argv[:1]
    config = task.get_default_config()
    sys.argv = argv
    config.update(token_list=tasks.TOKENS, quantizer="absmax", quantizer_conf={"bits": 4})
    config["encoder_conf"].update(conf)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    model, _ = task.build_model_from_file(tmp_path / "config.yaml")
    write_packed(tmp_path / "model.safetensors", pack_model(model))
    packed, _ = task.build_model_from_file(tmp_path / "config.yaml", tmp_path / "model.safetensors")
    assert torch.equal(packed.encoder.post_extract_proj.weight * 1.0, model.encoder.post_extract_proj.weight)
