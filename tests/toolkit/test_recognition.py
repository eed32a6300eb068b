"""Words with times from ESPnet's Speech2Text, of models of every kind."""

import argparse
import copy
import random
import unicodedata

import numpy as np
import pytest
import torch
import yaml

import espnet_rand

espnet_rand.register()
from espnet2.bin import asr_inference, asr_transducer_inference  # noqa: E402
from espnet2.text.build_tokenizer import build_tokenizer  # noqa: E402

from espnet_rand.packing import pack_model, write_packed  # noqa: E402
from espnet_rand.toolkit.recognition import Recognizer, Word, join_text  # noqa: E402
from espnet_rand.toolkit.recognition.words import word_tokens  # noqa: E402

from .tasks import write_config  # noqa: E402

KINDS = ["ctc_attention", "ctc_attention_lm", "interctc", "packed", "rnn", "attention", "transducer", "asr_transducer"]


def noise(seconds, rate=16000):
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))).astype(np.float32)


def build(kind, folder):
    """Speech2Text with random weights."""
    torch.manual_seed(2)
    module, name, more, search = asr_inference, "asr", {}, {"beam_size": 2, "maxlenratio": 0.3, "minlenratio": 0.1}
    if kind == "rnn":
        name = "asr_rnn"
    elif kind == "attention":
        more = {"model_conf": {"ctc_weight": 0.0}}
        search["ctc_weight"] = 0.0
    elif kind == "interctc":
        more = {"model_conf": {"ctc_weight": 0.3, "interctc_weight": 0.5}}
    elif kind == "transducer":
        more = {"decoder": "transducer", "decoder_conf": {"rnn_type": "lstm", "num_layers": 1, "hidden_size": 8}}
        more.update(joint_net_conf={"joint_space_size": 8}, model_conf={"ctc_weight": 0.0})
        search = {"beam_size": 2}
    elif kind == "asr_transducer":
        module, name, search = asr_transducer_inference, "asr_transducer", {"beam_size": 2}
        search["beam_search_config"] = {"search_type": "alsd"}
    task, made = write_config(name, folder / kind, **more)
    config = yaml.safe_load((made / "config.yaml").read_text())
    if kind == "interctc":
        config["encoder_conf"].update(num_blocks=2, interctc_layer_idx=[1], interctc_use_conditioning=True)
        (made / "config.yaml").write_text(yaml.safe_dump(config))
    model, _ = task.build_model_from_file(made / "config.yaml")
    if kind.endswith("transducer"):  # or there are only blanks
        with torch.no_grad():
            model.joint_network.lin_out.bias[0] -= 4.0
    if kind == "packed":
        espnet_rand.quantize(model, espnet_rand.QuantizerConfig("rand", bits=4))
        write_packed(made / "model", pack_model(model))
    else:
        torch.save(model.state_dict(), made / "model")
    if kind == "ctc_attention_lm":
        lm_task, lm = write_config("lm", folder / "lm")
        torch.save(lm_task.build_model_from_file(lm / "config.yaml")[0].state_dict(), lm / "model.pth")
        search.update(lm_train_config=str(lm / "config.yaml"), lm_file=str(lm / "model.pth"))
    return module.Speech2Text(made / "config.yaml", made / "model", **search)


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_of_espnet_with_times(kind, tmp_path):
    speech2text = build(kind, tmp_path)
    samples = noise(1.5)
    recognizer = Recognizer(speech2text)
    heard = recognizer(samples)
    result = speech2text(samples)
    if kind == "interctc":
        result = result[0]
    if kind == "asr_transducer":
        result = speech2text.hypotheses_to_results(result)
    text = result[0][0]
    assert text and join_text(heard.words) == text.rstrip()
    assert heard.timed == (kind != "attention")
    # with random weights a text is as long as maxlenratio allows, mostly; a transducer's search has none
    assert all("maxlenratio" in note for note in heard.notes) and not (heard.notes and kind.endswith("transducer"))
    times = [time for word in heard.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 1.5
    assert not speech2text.asr_model.encoder._forward_hooks
    if kind != "rnn":  # which takes a single frame
        assert recognizer(noise(0.01)).notes == ("too short for the model",)


@pytest.mark.parametrize("layer, factor", [("conv2d", 4), ("conv2d6", 6), ("conv2d8", 8)])
@pytest.mark.parametrize("hop", [128, 160])
@pytest.mark.parametrize("seconds", [3, 20])
def test_times_are_those_of_the_frames(layer, factor, hop, seconds, tmp_path):
    task, made = write_config("asr", tmp_path / "model")
    config = yaml.safe_load((made / "config.yaml").read_text())
    config["encoder_conf"]["input_layer"] = layer
    config["frontend_conf"]["hop_length"] = hop
    (made / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(task.build_model_from_file(made / "config.yaml")[0].state_dict(), made / "model.pth")
    speech2text = asr_inference.Speech2Text(made / "config.yaml", made / "model.pth")
    spoken = [7, 12, 20]

    def log_softmax(frames):
        said = torch.zeros(1, frames.size(1), 6)
        said[0, :, 0] = 1
        for token, frame in enumerate(spoken, 2):
            said[0, frame, token] = 2
        return said

    speech2text.asr_model.ctc.log_softmax = log_softmax
    speech2text.tokenizer = None  # a word a token
    words = Recognizer(speech2text, ctc_greedy=True)(noise(seconds)).words
    assert [word.start for word in words] == pytest.approx([frame * factor * hop / 16000 for frame in spoken])


def test_the_rate_is_the_frontends(tmp_path):
    speech2text = build("ctc_attention", tmp_path)
    assert Recognizer(speech2text).rate == 16000
    for rate, number in ((8000, 8000), ("8k", 8000)):
        other = copy.copy(speech2text)
        other.asr_train_args = argparse.Namespace(**{**vars(speech2text.asr_train_args), "frontend_conf": {"fs": rate}})
        assert Recognizer(other).rate == number


@pytest.mark.parametrize("kind", ["attention", "asr_transducer"])
def test_greedy_decoding_wants_ctc(kind, tmp_path):
    with pytest.raises(ValueError, match="has no CTC.*Fix"):
        Recognizer(build(kind, tmp_path), ctc_greedy=True)


def test_the_volume_is_set_as_in_training(tmp_path):
    speech2text = build("ctc_attention", tmp_path)
    given = []

    class Keeps:
        def __getattr__(self, name):
            return getattr(speech2text, name)

        def __call__(self, samples):
            given.append(samples)
            return speech2text(samples)

    speech2text.asr_train_args.speech_volume_normalize = 0.5
    Recognizer(Keeps())(noise(0.5))
    assert np.abs(given[0]).max() == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text, tokens, words",
    [
        ("ab c", ["a", "b", " ", "c"], [("ab", 0, 1, None), ("c", 3, 3, " ")]),
        (" ab  c ", [" ", "ab", " ", " ", "c", " "], [("ab", 1, 1, " "), ("c", 4, 4, "  ")]),
        (
            "今日は ok",
            ["今", "日は", " o", "k"],
            [("今", 0, 0, None), ("日", 1, 1, ""), ("は", 1, 1, ""), ("ok", 2, 3, " ")],
        ),
        ("5月ok", ["5月", "ok"], [("5", 0, 0, None), ("月", 0, 0, ""), ("ok", 1, 1, "")]),
        # a mark, a sign of the form, a sign that joins two letters: they do not stand alone
        ("ที่葛\U000e0100x", ["ที่", "葛\U000e0100x"], [("ที่", 0, 0, None), ("葛\U000e0100", 1, 1, ""), ("x", 1, 1, "")]),
        ("ក្ខម", [*"ក្ខម"], [("ក្ខ", 0, 2, None), ("ម", 3, 3, "")]),
        ("  ", [" ", " "], []),
        ("", [], []),
    ],
)
def test_tokens_of_words(text, tokens, words):
    assert word_tokens(text, tokens, "".join) == words


def test_tokens_of_words_with_sentencepiece(tmp_path):
    import sentencepiece

    text = "the long recordings are joined and the words are not lost"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 20), model_prefix=str(tmp_path / "m"), vocab_size=25, minloglevel=2
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    tokens = processor.encode(text, out_type=str)
    found = word_tokens(text, tokens, processor.decode_pieces)
    assert [word for word, *_ in found] == text.split()
    for word, first, last, _ in found:
        assert processor.decode_pieces(tokens[first : last + 1]) == word


def test_tokens_that_are_bytes(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the long words"] * 20),
        model_prefix=str(tmp_path / "m"),
        vocab_size=275,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    text = "the 👍 long 好 words 好👍 the long words"
    tokens = processor.encode(text, out_type=str)
    assert "<0xF0>" in tokens
    for word, first, last, _ in word_tokens(text, tokens, processor.decode_pieces):
        if word.isascii():  # what comes after bytes is not moved
            assert processor.decode_pieces(tokens[first : last + 1]) == word


def words_of(text, tokens, to_text, **more):
    found = word_tokens(text, tokens, to_text, **more)
    return [Word(word, first, last + 1, space) for word, first, last, space in found]


def test_join_text():
    assert join_text([]) == "" and join_text([Word("a", 0, 1), Word("好", 1, 2), Word("的", 2, 3)]) == "a 好的"
    assert join_text([Word(word, 0, 1) for word in ("5", "月", "3", "日", "ok", "then")]) == "5月3日 ok then"
    for text in ("人々は、今日も。", "「好」，的！"):  # punctuation, repetition marks, full-width forms
        words = words_of(text, list(text), "".join)
        assert [word.text for word in words] == list(text)
        assert join_text(words) == text


ALPHABETS = [
    "the Quick, don't. U.S. 3.5% <unk> a_b",
    "2024年5月3日 100％です。你好 世界，ok「カタカナ」ﾊﾝｶｸﾞ 葛\U000e0100 𠮷々ー\u3000",
    "ภาษาไทย ที่นี่ ๆ ກຳ ភាសាខ្មែរ မြန်မာ བོད་ཡིག",
    "한국어 텍스트 \u1112\u1161\u11ab",
    "עברית שָׁלוֹם العربيَّة فارسی \u200f\u200c",
    "हिन्दी में க்ஷ e\u0301 n\u0303 ẞ İ",
    "👍🏽 👨\u200d👩\u200d👧 🇩🇪 ❤\ufe0f",
    " \t\n\r\x1c\x85\xa0\u2028\u2009\u3000 ",
]


def random_texts(count):
    rng = random.Random(0)
    for _ in range(count):
        letters = "".join(rng.sample(ALPHABETS, 2))
        yield "".join(rng.choices(letters, k=rng.randrange(1, 40)))


def as_bytes(tokens):
    """As Whisper's tokenizer makes a text of its tokens: signs for bytes that are no character yet."""
    return bytes(map(ord, tokens)).decode("utf-8", "replace")


@pytest.mark.parametrize("text", [*map(str.strip, ALPHABETS[:-1]), "a  b\n\nc"])
def test_the_words_of_a_text_are_the_text(text):
    assert join_text(words_of(text, list(text), "".join)) == text
    assert join_text(words_of(text, [chr(byte) for byte in text.encode()], as_bytes)) == text


def test_the_words_of_any_text_are_the_text():
    for text in random_texts(2000):
        words = words_of(text, list(text), "".join)
        assert join_text(words) == text.rstrip()
        assert [w for word in words for w in word.text.split()] == [word.text for word in words]
        assert "".join(text[word.start : word.end] for word in words) == "".join(text.split())
        assert not any(unicodedata.category(word.text[0])[0] == "M" for word in words if word.space_before == "")


@pytest.mark.parametrize(
    "kind, tokens, words",
    [
        ("char", ["2", "年", "<space>", "<space>", "é", "<unk>", "<space>"], ["2", "年", "é<unk>"]),
        ("word", ["2024年", "<unk>", "ok", "好"], ["2024", "年", "<unk>", "ok", "好"]),
        ("phn", ["HH", "AH0", "L", "L", "<space>", "OW1"], ["HH", "AH0", "L", "L", "<space>", "OW1"]),
    ],
)
def test_words_of_espnets_tokenizers(kind, tokens, words, tmp_path):
    speech2text = build("ctc_attention", tmp_path)
    speech2text.tokenizer = build_tokenizer(kind, **({"g2p_type": None} if kind == "phn" else {}))
    text = speech2text.tokenizer.tokens2text(tokens)
    recognizer = Recognizer(speech2text)
    recognizer._best = lambda result: (text, tokens, [2 + n % 3 for n in range(len(tokens))], None)
    found = recognizer(noise(1.5)).words
    assert [word.text for word in found] == words and join_text(found) == text.rstrip()
    assert all(a.start < b.start or kind == "word" for a, b in zip(found, found[1:]))
