"""ESPnet's Whisper classes with the current openai-whisper, and packed models without OpenAI's file."""

import dataclasses

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand import whisper_tokens

whisper = pytest.importorskip("whisper")
espnet_rand.register()
from espnet2.tasks.asr import ASRTask  # noqa: E402

from espnet_rand.toolkit.commands import checkpoints  # noqa: E402
from tests.toolkit import tiny_whisper  # noqa: E402

DIMS = {**tiny_whisper.DIMS, "n_vocab": 51864}


def test_espnet_tokenizes_with_the_current_openai_whisper():
    from espnet2.text.whisper_token_id_converter import OpenAIWhisperTokenIDConverter
    from espnet2.text.whisper_tokenizer import OpenAIWhisperTokenizer

    tokenizer = OpenAIWhisperTokenizer("whisper_en")
    converter = OpenAIWhisperTokenIDConverter("whisper_en")
    line = "Café: press 1, then 'pound' — thank you!"
    tokens = tokenizer.text2tokens(line)
    assert all(" " not in t and "\n" not in t for t in tokens)
    assert tokenizer.tokens2text(tokens) == line
    no_timestamps, *ids = converter.tokens2ids(tokens)
    assert no_timestamps == 50362
    assert ids == whisper.tokenizer.get_tokenizer(False).encode(line)
    assert converter.ids2tokens([no_timestamps, *ids, 50256]) == tokens


def test_espnets_program_lists_whispers_tokens_below_the_launcher(run, tmp_path):
    output = tmp_path / "tokens.txt"
    options = ["--whisper_model", "whisper_en", "--output", output]
    done = run("espnet-rand", "-m", "espnet2.bin.whisper_export_vocabulary", *options)
    assert done.returncode == 0, done.stderr
    tokens = output.read_text().splitlines()
    assert (tokens[50256], tokens[50362], tokens[-1]) == ("<|endoftext|>", "<|notimestamps|>", "<|30.00|>")


def test_the_multilingual_tokens_are_those_of_openai_and_prompts_name_the_language():
    from espnet2.train.preprocessor import CommonPreprocessor

    preprocess = CommonPreprocessor(
        train=False,
        use_lang_prompt=True,
        token_type="whisper_multilingual",
        bpemodel="whisper_multilingual",
        token_list=["a"],
    )
    line = "Нажмите решётку, s'il vous plaît"
    said = preprocess("", {"text": line, "prompt": "<|ru|> <|transcribe|>"})
    tokenizer = whisper.tokenizer.get_tokenizer(True, language="ru", task="transcribe")
    start = tokenizer.sot_sequence_including_notimestamps[1:]
    assert said["text"].tolist() == [*start, *tokenizer.encode(line)]
    assert preprocess.tokenizer.tokens2text(preprocess.tokenizer.text2tokens(line)) == line


def test_a_packed_model_is_built_without_openais_file_and_under_any_name(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_RAND_PACKED_BACKEND", "dequantize")
    torch.manual_seed(0)
    own = whisper.model.Whisper(whisper.model.ModelDimensions(**DIMS))
    torch.nn.init.normal_(own.decoder.positional_embedding)  # openai-whisper leaves it as it finds it
    part = {"whisper_model": "ours"}
    config = {"encoder": "whisper", "encoder_conf": part, "decoder": "whisper", "decoder_conf": part}
    config.update(model_conf={"ctc_weight": 0.0, "sym_sos": "<sos>", "sym_eos": "<eos>"}, token_type="char")
    config.update(token_list=["<sos>", "<eos>", *map(str, range(DIMS["n_vocab"] - 2))], frontend=None, normalize=None)
    config.update(input_size=1, preprocessor="default", quantizer="absmax", quantizer_conf={"bits": 4})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**ASRTask.get_default_config(), **config}))
    with monkeypatch.context() as patched:
        patched.setattr(whisper, "load_model", lambda *_, **__: own)
        patched.setitem(whisper._MODELS, "ours", "")
        trained, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml")
    packed_file = checkpoints.pack(trained)
    packed_file.info["whisper"]["start_of_transcript"] = 50257  # OpenAI's list of tokens has it there
    espnet_rand.packing.write_packed(tmp_path / "packed.safetensors", packed_file)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(AssertionError):
        ASRTask.build_model_from_file(tmp_path / "config.yaml")
    packed, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml", tmp_path / "packed.safetensors")
    speech, lengths = tiny_whisper.noise(0.2)
    with torch.no_grad():
        said = [m.decoder.decoders(torch.arange(9).view(1, 9), m.encode(speech, lengths)[0]) for m in (packed, trained)]
    torch.testing.assert_close(*said)


def test_a_tokenizer_of_hugging_face_stays(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Tokenizer:  # as in openai-whisper's versions that ESPnet's installer takes
        tokenizer: object

    monkeypatch.setattr(whisper.tokenizer, "Tokenizer", Tokenizer)
    whisper_tokens.prepare()
    assert Tokenizer("of Hugging Face").tokenizer == "of Hugging Face"
