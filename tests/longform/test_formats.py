"""One text, in all formats, and that of ESPnet's own inference."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch

import espnet_rand

espnet_rand.register()
from espnet2.asr.ctc import CTC  # noqa: E402
from espnet2.bin import asr_inference  # noqa: E402

from espnet_rand.bin import asr_inference_long  # noqa: E402
from espnet_rand.longform import LongForm, Transcript  # noqa: E402
from espnet_rand.longform.formats import as_json, ctm, srt, vtt  # noqa: E402
from espnet_rand.toolkit.recognition import Heard, Word, join_text  # noqa: E402
from espnet_rand.toolkit.recognition.words import word_tokens  # noqa: E402
from tests.toolkit.tasks import write_config  # noqa: E402

from .stub import RATE, ramp  # noqa: E402

TEXTS = ["2024年5月3日", "100％です", "你好 世界", "สวัสดี ครับ ok", "a  b", "שלום, עולם", "<unk> a&b é 👍🏽"]
SPOKEN = ["<space>", *"2024年", "5月", *"3日", "<space>", "<space>", *"好ก", "<space>", "<unk>", "ok", "<space>", "é"]


class Says:
    """A recognizer that hears a text, a character each tenth of a second."""

    rate = RATE

    def __init__(self, text):
        self.text = text
        self.calls = 0

    def __call__(self, samples):
        self.calls += 1
        found = word_tokens(self.text, list(self.text), "".join)
        return Heard([Word(word, first / 10, (last + 1) / 10, space) for word, first, last, space in found])


def cues(subtitles):
    """The text of subtitles of one cue."""
    (text,) = re.findall(r" --> [\d:.,]+\n(.*)\n\n", subtitles)
    return text


def transcript_of(words):
    return Transcript(words, 60.0, True, [])


@pytest.mark.parametrize("text", TEXTS)
def test_all_formats_have_the_same_text(text, tmp_path):
    says = Says(text)
    long_form = LongForm(says)
    transcript = long_form(ramp(8), tmp_path / "key.jsonl")
    assert transcript.text == cues(srt(transcript)) == text
    assert cues(vtt(transcript)) == text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    content = json.loads(as_json("key", transcript))
    assert content["text"] == "".join(w.get("space_before", " ") + w["text"] for w in content["words"]) == text
    assert "".join(line.split(" ", 4)[4] for line in ctm("key", transcript).splitlines()) == "".join(text.split())
    # what is finished is read back with its spaces
    assert long_form(ramp(8), tmp_path / "key.jsonl") == transcript and says.calls == 1


def test_lines_of_a_text_do_not_end_a_subtitle():
    transcript = transcript_of([Word("a", 0, 1, "\n"), Word("b", 1, 2, "\r\n \n"), Word("c", 2, 3, "\u2028")])
    assert cues(srt(transcript)) == cues(vtt(transcript)) == "a b c"
    assert join_text(transcript.words) == "\na\r\n \nb\u2028c"


def test_ctm_is_in_order_of_time():
    words = [
        Word("c", 2.0, 2.5),
        Word("b", 1.5, 1.4),
        Word("a", -0.004, 0.5),
        Word("d", 3.0, 3.0),
        Word("e f", 4.0, 4.2),
    ]
    lines = [line.split() for line in ctm("key", transcript_of(words)).splitlines()]
    assert [line[-1] for line in lines] == ["a", "b", "c", "d", "e", "f"] and {len(line) for line in lines} == {5}
    starts = [line[2] for line in lines]
    assert starts == ["0.00", "1.50", "2.00", "3.00", "4.00", "4.00"] and min(float(line[3]) for line in lines) > 0


def test_subtitles_end_after_they_begin():
    words = [Word("a", -0.5, 0.5), Word("b", 2.0, 2.5), Word("c", 1.9, 1.9), Word("d", 9.0, 9.0)]
    found = re.findall(r"(\S+) --> (\S+)", vtt(transcript_of(words)))
    assert found == [
        ("00:00:00.000", "00:00:00.500"),
        ("00:00:01.900", "00:00:02.500"),
        ("00:00:09.000", "00:00:09.010"),
    ]


def test_a_text_across_windows_keeps_its_spaces():
    text = "今日は 2024年 5月です ok 100％ だ" * 5
    said = Says(text)(None).words

    class Hears:
        rate = RATE

        def __call__(self, samples):
            start = samples[0] / (ramp(1)[1] - ramp(1)[0]) / RATE - 40.96
            heard = [w for w in said if w.start >= start - 0.01 and w.end <= start + len(samples) / RATE + 0.01]
            heard = [w._replace(start=w.start - start, end=w.end - start) for w in heard]
            return Heard([heard[0]._replace(space_before=None), *heard[1:]])

    for window in (3.0, 3.3, 3.7, 4.1, 4.9):
        assert LongForm(Hears(), window=window, overlap=1.5)(ramp(said[-1].end + 0.5)).text == text, window


@pytest.mark.parametrize(
    "kind, text",
    [
        ("char", " 2024年5月3日  好ก <unk>ok é"),
        ("word", "2 0 2 4 年 5月 3 日 好 ก <unk> ok é"),
        ("phn", "<space>2024年5月3日<space><space>好ก<space><unk>ok<space>é"),
    ],
)
def test_the_text_of_a_short_file_is_that_of_asr_inference(kind, text, tmp_path, monkeypatch):
    spoken = [token for token in SPOKEN if kind != "word" or token != "<space>"]
    tokens = ["<blank>", "<unk>", *sorted({*spoken} - {"<unk>"}), "<sos/eos>"]

    def log_softmax(self, frames):
        best = torch.zeros(1, frames.size(1), dtype=torch.long)
        best[0, 3 : 3 + 2 * len(spoken) : 2] = torch.tensor([tokens.index(token) for token in spoken])
        return torch.nn.functional.one_hot(best, len(tokens)).mul(50.0).log_softmax(-1)

    monkeypatch.setattr(CTC, "log_softmax", log_softmax)
    more = {"token_list": tokens, "token_type": kind, "decoder": None, "decoder_conf": {}}
    task, made = write_config("asr", tmp_path / "model", **more, model_conf={"ctc_weight": 1.0})
    torch.save(task.build_model_from_file(made / "config.yaml")[0].state_dict(), made / "model.pth")
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(32000), 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    options = ["--asr_train_config", made / "config.yaml", "--asr_model_file", made / "model.pth", "--ctc_weight", 1.0]
    options += ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound", "--log_level", "ERROR"]
    options += ["--beam_size", 2]
    for name, command in (("short", asr_inference), ("long", asr_inference_long)):
        command.main([str(x) for x in [*options, "--output_dir", tmp_path / name]])
    short, long = ((tmp_path / name / "1best_recog/text").read_text() for name in ("short", "long"))
    assert short == long == f"a {text}\n"
