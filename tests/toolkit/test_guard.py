"""What attention decoders say that nobody said: loops, words on noise, text without an end."""

import pytest
import torch

import espnet_rand

espnet_rand.register()
from espnet2.bin.asr_inference import Speech2Text  # noqa: E402

from espnet_rand.toolkit.recognition import Recognizer, join_text  # noqa: E402
from espnet_rand.toolkit.recognition.guard import find_loop  # noqa: E402

from .tiny_whisper import TOKENS, noise, tiny, write  # noqa: E402, F401

SPACE = TOKENS.index("<space>")


def ids(text):
    return [TOKENS.index({" ": "<space>", "|": "<eos>"}.get(c, c)) for c in text]


def speaking(folder, text, nospeech=0.0, sure=0.99, **search):
    """Speech2Text of a decoder that says the letters of a text, with `sure` for each; | is its end.

    Args:
        nospeech: the probability of <|nospeech|> as the first token
    """
    speech2text = Speech2Text(write(folder), None, ctc_weight=0.0, **search)
    said = ids(text)

    def batch_score(ys, states, xs):
        probabilities = torch.full((len(ys), len(TOKENS)), (1 - sure) / len(TOKENS))
        for row, y in zip(probabilities, ys.tolist()):
            row[said[(len(y) - 1) % len(said)]] += sure
            if len(y) == 1:
                row[TOKENS.index("<|nospeech|>")] = nospeech
        return probabilities.log(), None

    decoder = speech2text.asr_model.decoder
    decoder.batch_score = batch_score
    decoder.score = lambda y, state, x: (batch_score(y[None], None, x[None])[0][0], None)
    return speech2text


def hear(speech2text, **options):
    heard = Recognizer(speech2text, **options)(noise(1.0)[0][0].numpy())
    return join_text(heard.words), heard.note


@pytest.mark.parametrize(
    "text, loop",
    [
        ("har har har har", None),
        ("a b c d e f g h a b c d e f g h a b c d e f g h", None),
        ("so " + 25 * "a", (3, 1, 28)),
        ("ab cd " * 3 + "ab", None),
        ("x" + "ab cd " * 5, (1, 6, 31)),
        ("x" + "ab cd " * 5 + "yes", (1, 6, 31)),
        ("x" + "abcdefgh" * 4, (1, 8, 33)),
    ],
)
def test_what_is_a_loop(text, loop):
    assert find_loop(ids(text)) == loop


@pytest.mark.parametrize("beam", [1, 4])
def test_a_loop_is_kept_once(beam, tmp_path):
    speech2text = speaking(tmp_path, "yes no " * 200, beam_size=beam)
    text, note = hear(speech2text)
    assert text == "yes no" and "over and over" in note
    assert "guard" not in {**speech2text.beam_search.scorers, **speech2text.beam_search.weights}
    speech2text.maxlenratio = -60
    text, note = hear(speech2text, guard=False)
    assert text.count("yes") > 7 and not note


@pytest.mark.parametrize("beam", [1, 4])
def test_speech_stays_as_it_is(beam, tmp_path):
    said = "har har har har no|"
    assert hear(speaking(tmp_path, said, beam_size=beam)) == ("har har har har no", "")


def test_a_text_without_an_end_ends_where_whisper_has_no_more_room(tmp_path):
    letters = "".join(chr(ord("a") + (n * n + n // 7) % 25) for n in range(600))
    text, _ = hear(speaking(tmp_path, letters, beam_size=1))
    assert letters.startswith(text) and len(text) == 447
    with pytest.raises(RuntimeError):
        Speech2Text(write(tmp_path), None, ctc_weight=0.0, beam_size=1).asr_model.decoder.score(
            torch.zeros(449, dtype=torch.long), None, torch.zeros(3, 8)
        )


@pytest.mark.parametrize(
    "nospeech, sure, speech", [(0.9, 0.99, False), (0.3, 0.3, False), (0.3, 0.99, True), (0.1, 0.3, True)]
)
def test_words_on_what_is_no_speech(nospeech, sure, speech, tmp_path):
    speech2text = speaking(tmp_path, "thank you|", nospeech, sure, beam_size=1)
    text, note = hear(speech2text)
    assert (text, note != "") == (("thank you", False) if speech else ("", True))
    assert hear(speech2text, guard=False) == ("thank you", "")
