"""transcripts.html, in a browser, and what is refused before it is written."""

import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from espnet_rand.longform import Transcript
from espnet_rand.longform.comparison import compare
from espnet_rand.longform.finished import FinishedError, file_name, read_report, read_transcript
from espnet_rand.longform.formats import as_json
from espnet_rand.longform.page import NAME, write_page
from espnet_rand.toolkit.recognition import Word

from . import browser

HOSTILE = "<script>hacked=1</script> <img/src=x/onerror=hacked=1> \"onclick='hacked=1'x=\" --></span> <b>&amp;"


def said(text, step=0.5):
    """Words one after the other."""
    return [Word(word, step * n, step * n + 0.4, None if not n else " ") for n, word in enumerate(text.split())]


def run(directory, texts, timed=True):
    """What a run writes of recordings of 20 s, by their keys; None: refused."""
    (directory / "json").mkdir(parents=True)
    for key, text in texts.items():
        if text is not None:
            transcript = Transcript(said(text), 20.0, timed, [f"a note {HOSTILE}"])
            (directory / "json" / f"{file_name(key)}.json").write_text(as_json(key, transcript))
    lines = [{"key": key, "decoded": text is not None, "reason": f"no {HOSTILE}"} for key, text in texts.items()]
    (directory / "report.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


class Parsed(HTMLParser):
    """The tags of a page, with their attributes, and the words that play, by tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.text, self._open = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag if tag != "button" and "data-t" in dict(attributes) else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        self.text += data
        if self._open:
            self.words.append((self._open, data))


def test_words_that_differ_are_marked():
    merged = compare(said("a b c x y e"), said("a c d e f"))
    by = {"both": " ", "ours": "+", "theirs": "-"}
    assert " ".join((by[m.by] + m.word.text).strip() for m in merged) == "a +b c -d +x +y e -f"
    assert [m.by for m in compare([], said("a"))] == ["theirs"] and [m.by for m in compare(said("a"), [])] == ["ours"]


def test_the_page_of_two_runs(tmp_path):
    soundfile.write(tmp_path / "a #1?.flac", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "b.aiff", np.zeros(16000), 16000)
    mine = run(tmp_path / "mine", {"a/1": "so it goes", "b": "yes", "c": "no", "d": None}, timed=False)
    other = run(tmp_path / "other", {"a/1": "so it went", "b": None})
    entries = {"a/1": tmp_path / "a #1?.flac", "b": tmp_path / "b.aiff", "c": "cat x.wav |", "d": tmp_path / "x.wav:9"}
    write_page(mine, {key: str(entry) for key, entry in entries.items()}, other)
    page = Parsed((mine / NAME).read_text())
    assert page.words == [
        ("span", "so"),
        ("span", "it"),
        ("del", "went"),
        ("ins", "goes"),
        ("span", "yes"),
        ("span", "no"),
    ]
    assert [about["src"] for tag, about in page.tags if tag == "audio"] == ["../a%20%231%3F.flac"]
    for sentence in (
        "1 of 3 words are of this run alone, 1 of the other's",
        "times are estimates",
        f"{tmp_path}/b.aiff: browsers cannot play this kind of file",
        "cat x.wav |: a command, which a browser cannot play",
        f"{tmp_path}/x.wav:9: in an archive, which a browser cannot play",
        "the other run has no transcript of it",
        f"refused: no {HOSTILE}",
    ):
        assert sentence in page.text, sentence


def test_a_run_without_another_and_subtitles_as_lines(tmp_path):
    run(tmp_path, {"a": " ".join(["word"] * 40)})
    write_page(tmp_path, {"a": "gone.wav"})
    page = Parsed((tmp_path / NAME).read_text())
    lines = [about["data-t"] for tag, about in page.tags if tag == "button"]
    assert len(page.words) == 40 and {tag for tag, _ in page.words} == {"span"} and lines[:2] == ["0.00", "7.00"]
    assert "gone.wav: there is no such file" in page.text and "of the other's" not in page.text


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_in_a_browser_a_click_plays_from_the_word_and_hostile_text_does_nothing(tmp_path):
    samples = 0.1 * np.sin(np.arange(16000 * 20) / 20)
    for name in ("a '\"<b>#.wav", "b.wav"):
        soundfile.write(tmp_path / name, samples, 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF\0\0\0\0WAVE" + b"x" * 999)
    text = f"{HOSTILE} one two three four five six seven eight nine ten"
    keys = (HOSTILE.replace(" ", ""), "b", "broken")
    mine = run(tmp_path / "mine", dict.fromkeys(keys, text))
    other = run(tmp_path / "<i>other", dict.fromkeys(keys, f"{HOSTILE} {HOSTILE} none"))
    entries = dict(zip(keys, (tmp_path / "a '\"<b>#.wav", tmp_path / "b.wav", tmp_path / "broken.wav")))
    write_page(mine, {key: str(path) for key, path in entries.items()}, other)
    with browser.opened(mine / NAME, tmp_path / "profile") as page:
        assert page.evaluate("[document.scripts.length, document.images.length]") == [1, 0]
        shown = "[...document.querySelectorAll('section:first-of-type :is(span, ins)')].map(one => one.textContent)"
        assert page.evaluate(shown) == text.split()
        audio = "document.querySelectorAll('audio')[{}]".format
        page.click("section:nth-of-type(3) button")
        page.wait_for(f"{audio(2)}.error !== null")
        notes = page.evaluate("[...document.querySelectorAll('audio + p')].map(one => one.hidden)")
        assert notes == [True, True, False]
        number = text.split().index("seven")
        page.click(f"section:nth-of-type(2) [title^='{number / 2:.2f} ']")
        page.wait_for(f"!{audio(1)}.paused && {audio(1)}.currentTime > {number / 2 + 0.1}")
        assert page.evaluate(f"{audio(1)}.currentTime") < number / 2 + 5
        page.wait_for("document.querySelector('.now') !== null")
        assert page.evaluate("document.querySelector('.now').textContent") in text.split()[number:]
        page.click("section button")
        page.wait_for(f"!{audio(0)}.paused && {audio(1)}.paused")
        # a script that got into the page would not run
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'hacked = 2'}))")
        assert page.evaluate("typeof hacked") == "undefined"
        assert page.requested and all(address.startswith(("file:", "data:")) for address in page.requested)


@pytest.mark.parametrize(
    "content, reason",
    [
        ("{", "Expecting property name"),
        ('{"key": "b"}', "of another recording"),
        ('{"key": "a", "words": [{"text": 1}]}', "int in place of a text"),
        ('{"key": "a", "words": [{"text": "x", "start": NaN, "end": 1}]}', "infinite"),
        ('{"key": "a", "words": [{"text": "x", "start": 1' + "0" * 400 + ', "end": 1}]}', "too large"),
        ('{"key": "a", "words": 3}', "not iterable"),
        ("[" * 100000, "recursion"),
        (b"\xff", "utf-8"),
        (None, "not to be read: No such file"),
        ('{"key": "a", "words": [{"text": " ", "start": 0, "end": 1}]}', "a word without a character"),
    ],
    ids=lambda given: str(given)[:20],
)
def test_damaged_results_are_refused_in_a_line(tmp_path, content, reason):
    run(tmp_path, {"a": "x"})
    path = tmp_path / "json/a.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FinishedError, match=f"^{re.escape(str(path))}: .*{reason}.* Fix: [^\n]*$"):
        read_transcript(tmp_path, "a")
    (tmp_path / "report.jsonl").write_text("[]\n")
    with pytest.raises(FinishedError, match="report.jsonl: damaged"):
        read_report(tmp_path)
    (tmp_path / "report.jsonl").unlink()
    os.mkfifo(tmp_path / "report.jsonl")  # who reads it waits for ever
    with pytest.raises(FinishedError, match="report.jsonl: damaged.*it is no file"):
        read_report(tmp_path)


def test_what_is_read_is_what_was_written(tmp_path):
    words = [Word("今日", 0.1, 0.5, ""), Word("a", 0.5, 0.7, "\n"), Word("b", 0.8, 0.9)]
    (tmp_path / "json").mkdir()
    transcript = Transcript(words, 9.5, False, ["silent"])
    (tmp_path / "json/k.json").write_text(as_json("k", transcript))
    again = read_transcript(tmp_path, "k")
    assert again.text == transcript.text and again._replace(words=words) == transcript
    half = as_json("k", transcript._replace(words=[])).replace("silent", "\\ud800")
    (tmp_path / "json/k.json").write_text(half)
    assert read_transcript(tmp_path, "k").notes == ["?"]
