"""CTranslate2's directory has the codes of the packed file, and faster-whisper computes with them."""

import json
import platform
from dataclasses import replace

import numpy as np
import pytest
import torch

from espnet_rand.export import ctranslate2 as exports
from espnet_rand.packing.bits import pack
from tests.export import tiny_whisper as tiny

ctranslate2 = pytest.importorskip("ctranslate2")
CHANNEL, TENSOR = {"granularity": "channel"}, {"granularity": "tensor"}
PROMPT = [50257, 50362]
# CTranslate2's layers: OpenAI's whose rows they have
ENCODER = {"self_attention/linear_0": ["attn.query", "attn.key", "attn.value"], "self_attention/linear_1": ["attn.out"]}
ENCODER.update({"ffn/linear_0": ["mlp.0"], "ffn/linear_1": ["mlp.2"]})
DECODER = {**ENCODER, "attention/linear_0": ["cross_attn.query"], "attention/linear_2": ["cross_attn.out"]}
DECODER["attention/linear_1"] = ["cross_attn.key", "cross_attn.value"]


def read(path):
    """The variables of model.bin, by the reader of the recipes, which was written for other files."""
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    recipe = Path(__file__).parents[2] / "egs2/prompts/asr1/local/convert_ctranslate2.py"
    spec = spec_from_file_location("convert_ctranslate2", recipe)
    spec.loader.exec_module(module := module_from_spec(spec))
    with (path / "model.bin").open("rb") as file:
        return module.read_variables(file)


@pytest.mark.parametrize("options, bits", [*((CHANNEL, bits) for bits in (2, 3, 4, 5, 8)), (TENSOR, 8), (TENSOR, 4)])
def test_codes_are_those_of_the_packed_file(tmp_path, options, bits):
    packed = tiny.packed({"bits": bits, **options})
    exports.export(packed, tmp_path / "model")
    found = read(tmp_path / "model")
    layers = {"decoder/embeddings": ["decoder.decoders.token_embedding"]}
    for side, parts in (("encoder", ENCODER), ("decoder", DECODER)):
        for layer, names in parts.items():
            layers[f"{side}/layer_0/{layer}"] = [f"{side}.{side}s.blocks.0.{name}" for name in names]
    assert sum(map(len, layers.values())) == len(packed.weights)
    for layer, names in layers.items():
        weights = [packed.weights[f"{name}.weight"] for name in names]
        codes, scale = found[f"{layer}/weight"], found[f"{layer}/weight_scale"]
        assert codes.dtype == np.int8 and np.array_equal(codes, torch.cat([w.codes() for w in weights]).numpy())
        values = torch.cat([weight.values() for weight in weights]).numpy()
        assert np.allclose(codes / scale[:, None], values, rtol=1e-6, atol=0)


def model_of(folder, **options):
    whisper = pytest.importorskip("faster_whisper")
    return whisper.WhisperModel(str(folder), device="cpu", cpu_threads=1, local_files_only=True, **options)


@pytest.mark.parametrize(
    "bits, grid, kind, tolerance",
    [
        (4, "symmetric", "float32", 1e-4),
        (4, "symmetric", "int8", 0.03),
        (8, "symmetric", "int8", 0.03),
        (4, "signed", "int8", 0.03),
        (7, "half_step", "int8", 0.03),
        (4, "asymmetric", "int8", 0.03),
    ],
)
def test_ctranslate2_computes_what_torch_does_with_the_decoded_weights(tmp_path, bits, grid, kind, tolerance):
    packed = tiny.packed({"bits": bits, "grid": grid, **CHANNEL})
    exports.export(packed, tmp_path / "model")
    loaded = model_of(tmp_path / "model", compute_type=kind).model
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(1)) * 0.3
    whisper = tiny.decoded(packed)
    with torch.no_grad():
        wanted = whisper.encoder(mel)
        following = whisper.decoder(torch.tensor([PROMPT]), wanted)[0, -1].numpy()
    found = np.asarray(loaded.encode(ctranslate2.StorageView.from_array(mel.numpy()), to_cpu=True))
    assert np.abs(found - wanted.numpy()).max() < tolerance * wanted.abs().max()
    options = {"max_length": len(PROMPT) + 1, "suppress_tokens": None, "suppress_blank": False, "beam_size": 1}
    result = loaded.generate(
        ctranslate2.StorageView.from_array(mel.numpy()), [PROMPT], return_logits_vocab=True, **options
    )
    logits = np.asarray(result[0].logits[0][0]).reshape(-1)
    assert np.abs(logits - following).max() < tolerance * np.abs(following).max()


def extreme(bits):
    """A model whose blocks have no codes but the largest and the least."""
    packed = tiny.packed({"bits": bits, **CHANNEL})
    for name, weight in packed.weights.items():
        if ".blocks." in name:
            codes = torch.where(weight.codes() < 0, weight.grid.low, weight.grid.high).to(torch.int8)
            packed.weights[name] = replace(weight, packed=pack(codes.flatten(1), bits), scales=weight.scales / 5)
    return packed


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="it is of x86")
@pytest.mark.parametrize("bits, holds", [(7, True), (8, False)])
def test_codes_of_7_bits_do_not_overflow_on_avx2(tmp_path, run, bits, holds):
    """oneDNN's kernels for x86 without VNNI add pairs of products in 16 bits."""
    packed = extreme(bits)
    said = str(exports.export(packed, tmp_path / "model"))
    assert ("7 bits" in said) == (not holds)
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(1)) * 0.3
    np.save(tmp_path / "mel.npy", mel.numpy())
    with torch.no_grad():
        wanted = tiny.decoded(packed).encoder(mel).numpy()
    program = """if True:
        import sys, ctranslate2, numpy as np
        mel = ctranslate2.StorageView.from_array(np.load(sys.argv[1] + "/mel.npy"))
        model = ctranslate2.models.Whisper(sys.argv[1] + "/model", compute_type="int8", intra_threads=1)
        np.save(sys.argv[1] + "/found.npy", np.asarray(model.encode(mel, to_cpu=True)))
    """
    run("python", "-c", program, tmp_path, CT2_FORCE_CPU_ISA="AVX2", CT2_USE_MKL="0", DNNL_MAX_CPU_ISA="AVX2")
    found = np.load(tmp_path / "found.npy")
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert (error < 0.005) == holds


@pytest.mark.parametrize("vocabulary, mels", [(51864, 80), (51866, 128)])
def test_faster_whisper_transcribes(tmp_path, vocabulary, mels):
    exports.export(tiny.packed({"bits": 8, **CHANNEL}, vocabulary=vocabulary, mels=mels), tmp_path / "model")
    loaded = model_of(tmp_path / "model", compute_type="int8")
    options = {"language": "de" if vocabulary > 51864 else "en", "temperature": 0, "no_speech_threshold": None}
    segments, info = loaded.transcribe(tiny.sound(), max_new_tokens=4, without_timestamps=True, **options)
    assert "".join(segment.text for segment in segments)
    assert loaded.model.is_multilingual == (vocabulary > 51864) and info.language == options["language"]
    assert loaded.hf_tokenizer.get_vocab_size() == vocabulary


@pytest.mark.parametrize("multilingual", [False, True])
def test_texts_have_the_tokens_of_openai(multilingual):
    wanted = tiny.whisper.tokenizer.get_tokenizer(multilingual)
    made = exports.hugging_face(wanted)
    for text in (" Don't say 1234, please!", "naïve  Übung\n", " 日本語 🙂 \x00", "x" * 50):
        assert made.encode(text, add_special_tokens=False).ids == wanted.encode(text)
        assert made.decode(wanted.encode(text)) == text
    for token in ("<|startoftranscript|>", "<|notimestamps|>", "<|0.00|>", "<|30.00|>"):
        assert made.token_to_id(token) == wanted.special_tokens[token]
    assert json.loads(made.to_str())["model"]["type"] == "BPE"
