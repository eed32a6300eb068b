"""What attention decoders say that nobody said: loops, words on noise, text without an end."""

import threading

import numpy as np
import pytest
import torch

import espnet_rand

espnet_rand.register()
from espnet2.bin.asr_inference import Speech2Text  # noqa: E402

from espnet_rand.toolkit.recognition import Recognizer, join_text, recognizer  # noqa: E402
from espnet_rand.toolkit.recognition.loops import find_loop, without_loops  # noqa: E402
from espnet_rand.toolkit.recognition.loudness import moves, quietest  # noqa: E402

from .tiny_whisper import RATE, TOKENS, noise, tiny, write  # noqa: E402, F401

SPACE = TOKENS.index("<space>")
LOOP = "the decoder said the same over and over: it is kept once, and what follows may be missing"
AGAIN = "the decoder went astray, or left out what is said: heard again in parts"
KEPT = "no speech by the model's own account, but as loud as speech: its text is kept"
SILENT = "no words in some seconds in which somebody may speak"
CUT = "as many tokens as --maxlenratio allows: what follows may be missing. Fix: --maxlenratio 0"


def ids(text):
    return [TOKENS.index({" ": "<space>", "|": "<eos>"}.get(c, c)) for c in text]


def speaking(folder, text, nospeech=0.0, sure=0.99, long=None, **search):
    """Speech2Text of a decoder that says the letters of a text, with `sure` for each; | is its end.

    Args:
        nospeech: the probability of <|nospeech|> as the first token
        long: what it says of recordings of 10 seconds and more
    """
    speech2text = Speech2Text(write(folder), None, ctc_weight=0.0, **search)
    said = ids(text)

    def look(encoder, inputs):
        said[:] = ids(long if long and inputs[0].count_nonzero() >= 10 * RATE else text)

    speech2text.asr_model.encoder.register_forward_pre_hook(look, prepend=True)

    def batch_score(ys, states, xs):
        assert ys.size(1) <= 448  # as Whisper's own fails then
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


def speech(seconds):
    """Noise with a pause in each half second, as loud as speech is."""
    samples = noise(seconds)[0][0].numpy()
    samples[np.arange(len(samples)) % (RATE // 2) > 0.35 * RATE] *= 0.01
    return samples


def hear(speech2text, seconds=1.0, made=lambda seconds: noise(seconds)[0][0].numpy(), **options):
    heard = Recognizer(speech2text, **options)(made(seconds))
    return join_text(heard.words), "; ".join(heard.notes)


@pytest.mark.parametrize(
    "text, once",
    [
        ("har har har har", None),
        ("code three three three three five", None),
        ("no no no no no no no no stop", None),
        ("a b c d e f g h a b c d e f g h a b c d e f g h", None),
        ("so " + 70 * "a" + "h", "so ah"),
        ("code " + "three " * 12 + "five", "code three five"),
        ("code " + "three " * 12 + "think", "code three think"),
        ("x " + "thank you for watching. " * 4 + "th", "x thank you for watching."),
        ("ab " * 30 + "then " + "cd " * 30, "ab then cd"),
    ],
)
def test_what_is_a_loop(text, once):
    tokens = ["<space>" if c == " " else c for c in text]
    assert (find_loop(tokens) is None) == (once is None)
    left = without_loops(tokens, range(len(tokens)))
    assert "".join(text[i] for i in left).strip() == (once or text)


@pytest.mark.parametrize("beam", [1, 4, 10])
def test_a_loop_is_kept_once(beam, tmp_path):
    speech2text = speaking(tmp_path, "yes no " * 200, sure=0.8, beam_size=beam)
    decoder = speech2text.beam_search.full_scorers["decoder"]
    assert hear(speech2text) == ("yes no", LOOP)
    assert speech2text.beam_search.full_scorers["decoder"] is speech2text.beam_search.scorers["decoder"] is decoder
    speech2text.maxlenratio = -80
    text, note = hear(speech2text, guard=False)
    assert text.count("yes") > 7 and note == CUT


def test_tokens_that_espnet_leaves_out_do_not_hide_a_loop(tmp_path):
    speech2text = speaking(tmp_path, "yes no " * 200, beam_size=1)
    speech2text.beam_search.set_hyp_primer([0, 1, 2])
    ids2tokens = speech2text.converter.ids2tokens
    speech2text.converter.ids2tokens = lambda ids: ids2tokens([i for i in ids if i > 2])  # as Whisper's
    text, note = hear(speech2text)
    assert (text, note) == ("s no ye", LOOP)


@pytest.mark.parametrize("beam", [1, 4])
def test_speech_stays_as_it_is(beam, tmp_path):
    said = "har har har har no|"
    assert hear(speaking(tmp_path, said, beam_size=beam)) == ("har har har har no", "")


@pytest.mark.parametrize("beam", [1, 2, 10])
def test_a_text_without_an_end_ends_where_whisper_has_no_more_room(beam, tmp_path):
    letters = "".join(chr(ord("a") + (n * n + n // 7) % 25) for n in range(600))
    text, note = hear(speaking(tmp_path, letters, beam_size=beam))
    assert letters.startswith(text) and len(text) == 447
    assert note == "the decoder had no more room: what follows may be missing"
    last = letters[:446] + "|"
    assert hear(speaking(tmp_path, last, beam_size=beam)) == (last[:-1], "")


@pytest.mark.parametrize(
    "nospeech, sure, speech", [(0.9, 0.99, False), (0.3, 0.3, False), (0.3, 0.99, True), (0.1, 0.5, True)]
)
def test_words_on_what_is_no_speech(nospeech, sure, speech, tmp_path):
    speech2text = speaking(tmp_path, "you|", nospeech, sure, beam_size=1)
    text, note = hear(speech2text, 8.0)
    assert (text, note != "") == (("you", False) if speech else ("", True))
    assert hear(speech2text, 8.0, guard=False) == ("you", "")
    # a short word, said as fast as words are
    assert hear(speech2text) == ("you", "")


def test_what_went_astray_is_heard_again_in_two_parts(tmp_path):
    loops = speaking(tmp_path, "yes no|", long="ha " * 200, beam_size=1)
    heard = Recognizer(loops)(noise(12.0)[0][0].numpy())
    assert (join_text(heard.words), heard.notes) == ("yes no yes no", (AGAIN,))
    assert heard.words[1].end <= heard.words[2].start and 4 <= heard.words[2].start < heard.words[-1].end <= 12
    unsure = speaking(tmp_path, "yes|", long="to|", sure=0.1, beam_size=1)
    assert hear(unsure, 12.0)[0] == "yes yes"
    assert hear(unsure, 12.0, guard=False) == ("to", "")


def test_speech_is_judged_with_silence_behind(tmp_path, monkeypatch):
    """Without any it may seem to be none: what fills all that Whisper hears is heard again in two parts."""
    speech2text = speaking(tmp_path, "you|", nospeech=0.9, beam_size=1)
    heard = []
    speech2text.asr_model.encoder.register_forward_hook(lambda *_: heard.append(1))
    note = "no speech by the model's own account: its text is left out"
    for seconds, times in ((8.0, 1), (20.0, 1), (30.0, 3)):
        heard.clear()
        assert (hear(speech2text, seconds), len(heard)) == (("", note), times)
    heard.clear()  # what is as loud as speech is heard again, and kept: models of few bits take it for no speech
    assert (hear(speech2text, 14.0, speech), len(heard)) == (("you you", f"{KEPT}; {AGAIN}; {SILENT}"), 3)
    assert hear(speech2text, 8.0, speech) == ("you", f"{KEPT}; {SILENT}")
    monkeypatch.setenv("ESPNET_RAND_TRAILING_SILENCE", "0")  # noise is none, whether silence is behind or not
    assert hear(speaking(tmp_path, "you|", nospeech=0.9, beam_size=1), 8.0) == ("", note)
    unsure = speaking(tmp_path, "you|", nospeech=0.9, sure=0.1, beam_size=1)
    assert hear(unsure, 14.0, speech) == hear(unsure, 8.0, speech) == ("", f"{note}; {SILENT}")


def test_speech_without_words_is_heard_again(tmp_path, monkeypatch):
    """A word of four seconds with loudness as of speech is one behind which others were left out."""
    monkeypatch.setattr(recognizer, "whisper_frames", lambda *_: [(n, n + 1) for n in range(9)])
    skips = speaking(tmp_path, "yes no|", long="go|", beam_size=1)
    assert hear(skips, 12.0) == ("go", "")
    text, note = hear(skips, 12.0, speech)
    assert text == "yes no yes no" and "heard again in parts" in note
    silent = speaking(tmp_path, "yes no|", long="|", beam_size=1)
    assert hear(silent, 12.0, speech)[0] == "yes no yes no"
    assert hear(silent, 12.0, speech, guard=False) == ("", "")
    none = speaking(tmp_path, "|", long="go|", beam_size=1)
    assert hear(none, 12.0, speech) == ("go", SILENT)
    monkeypatch.setattr(recognizer, "whisper_frames", lambda *_: None)  # words without times, but none at first
    assert hear(silent, 12.0, speech)[0] == "yes no yes no"
    monkeypatch.setattr(recognizer, "whisper_frames", lambda *_: [(n, n + 1) for n in range(9)])
    half = speaking(tmp_path, "go on|", long="go|", beam_size=1)  # the parts have more words, and gaps of their own
    assert hear(half, 12.0, speech) == ("go on go on", f"{AGAIN}; {SILENT}")


def test_a_text_that_maxlenratio_cuts_has_a_note(tmp_path):
    speech2text = speaking(tmp_path, "yes no|", beam_size=1)
    for ratio, heard in ((-8, ("yes no", "")), (-6, ("yes no", CUT)), (-3, ("yes", CUT)), (0.0, ("yes no", ""))):
        speech2text.maxlenratio = ratio
        assert hear(speech2text) == heard
        assert hear(speech2text, guard=False) == heard
    speech2text.maxlenratio = -7  # the model ends it by itself, in the search's last step
    assert hear(speech2text)[1] == ""
    loops = speaking(tmp_path, "yes no " * 200, beam_size=1)
    loops.maxlenratio = -60
    assert hear(loops, 12.0)[1].split("; ") == sorted([CUT, AGAIN, LOOP])


def test_a_search_without_a_text_has_a_note(tmp_path):
    speech2text = speaking(tmp_path, "yes no|", beam_size=1)
    speech2text.beam_search.forward = lambda *_, **__: []
    assert hear(speech2text) == ("", "the search found no text")


def test_noise_and_a_word_with_silence_behind_are_not_loud_as_speech_is():
    samples = speech(4.0)
    assert moves(samples, RATE) and not moves(noise(4.0)[0][0].numpy(), RATE) and not moves(samples[:10], RATE)
    assert not moves(noise(4.0)[0][0].numpy() * (np.arange(4 * RATE) < 3 * RATE), RATE)  # muted for a while
    samples[RATE:] *= 0.01
    assert not moves(samples * (np.arange(len(samples)) < RATE) + 1e-5 * noise(4.0)[0][0].numpy(), RATE)


def test_parts_are_cut_where_it_is_quiet():
    samples = noise(10.0)[0][0].numpy()
    samples[7 * RATE : 8 * RATE] *= 0.01
    assert 7 * RATE < quietest(samples, RATE) < 8 * RATE


def test_threads_share_a_search(tmp_path):
    speech2text = speaking(tmp_path, "yes no " * 200, beam_size=1)
    recognizer, heard = Recognizer(speech2text), []
    threads = [threading.Thread(target=lambda: heard.append(hear(recognizer.speech2text))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [("yes no", LOOP)] * 4


def test_words_have_the_times_of_whispers_attention(tmp_path, monkeypatch):
    """Its rows begin behind special tokens, which are no part of the text; its columns end with the recording."""
    speech2text = speaking(tmp_path, "yes no|", beam_size=1)
    speech2text.beam_search.set_hyp_primer([0, 2, 2])
    ids2tokens = speech2text.converter.ids2tokens
    speech2text.converter.ids2tokens = lambda ids: ids2tokens([i for i in ids if i > 2])  # as Whisper's
    asked = []

    def whisper_frames(decoder, encoded, primer, tokens):
        asked.append((encoded.size(1), primer, tokens))
        return [(10 * n, 10 * n + 10) for n in range(len(tokens))]

    monkeypatch.setattr(recognizer, "whisper_frames", whisper_frames)
    heard = Recognizer(speech2text)(noise(1.5)[0][0].numpy())
    # the decoder says its letters by the place: two of them are the primer's
    assert join_text(heard.words) == "s no" and heard.timed
    ((frames, primer, tokens),) = asked
    assert (frames, primer, tokens) == (75, [0, 2, 2], ids("s no"))
    assert [(w.start, w.end) for w in heard.words] == [(0.0, 0.2), (0.4, 0.8)]
