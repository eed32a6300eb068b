"""Scores against cases made by hand."""

import json
import re

import pytest
from matplotlib.axes import Axes

from espnet_rand.longform.scoring import Counts, ScoringError, count, differences, plot, score, tables

PHRASE = "the quick brown fox jumps"


@pytest.mark.parametrize(
    "reference, hypothesis, counts",
    [
        ("a b c", "a b c", Counts(3)),
        ("a b c", "a x c", Counts(3, substitutions=1)),
        ("a b c", "a b b c", Counts(3, insertions=1)),
        ("", "a b", Counts(0, insertions=2)),
        ("a b c d", "", Counts(4, deletions=4)),
        ("a b c d e", "", Counts(5, deletions=5, dropped=1)),
        # two stretches of five, one of four
        (
            "k a b c d e k f g h i j k l m n o k",
            "k k k k",
            Counts(18, deletions=14, dropped=2),
        ),
        # a phrase again, twice: one loop; and three words again are too few
        (f"{PHRASE} over", f"{PHRASE} {PHRASE} {PHRASE} over", Counts(6, insertions=10, repeated=1)),
        ("a b c d", "a b c a b c d", Counts(4, insertions=3)),
        # a single word for ever
        ("well yes", "well yes yes yes yes yes", Counts(2, insertions=4, repeated=1)),
        # a loop in place of what was said
        (f"{PHRASE} p q r s t", f"{PHRASE} {PHRASE}", Counts(10, substitutions=5, repeated=1)),
        # a loop that the decoder leaves for another error
        (f"{PHRASE} p q r s t u", f"{PHRASE} {PHRASE} z", Counts(11, substitutions=6, repeated=1)),
        (f"{PHRASE} p q r s t u", f"{PHRASE} z {PHRASE}", Counts(11, substitutions=6, repeated=1)),
        # wrong, but no loop; and a speaker who does say it twice
        (f"{PHRASE}", f"{PHRASE} one two three four", Counts(5, insertions=4)),
        (f"{PHRASE} {PHRASE}", f"{PHRASE} {PHRASE}", Counts(10)),
    ],
)
def test_counts(reference, hypothesis, counts):
    assert count(reference, hypothesis) == counts


def named(runs):
    return {f".{n}": run for n, run in enumerate(runs, 1)}


def two_runs():
    seconds = {"a": 30.0, "b": 40.0, **dict.fromkeys("cdef", 35.0)}
    references = {"a": "x y z w", "b": "x y z w u v", "c": "x", "d": "x", "e": "x", "f": "x y z w u v"}
    runs = [{**references, "b": "x y z w u"}, {**references, "a": "x y", "f": "x y z w u"}]
    return score("mine, windows", "test/35s", seconds, references, named(runs))


def test_runs_are_averaged():
    found = two_runs()
    assert found.rates == pytest.approx([100 / 19, 300 / 19]) and found.mean("deletions") == 2
    assert (found.seconds, found.recordings) == (35.0, 6)
    low, high = found.estimate.interval
    assert low < 200 / 19 < high
    assert re.search(r"\| 10.53 \[0.00-[\d.]+\] \(5.26-15.79\) \|", tables([found]))


def test_differences_are_of_the_same_recordings_and_runs():
    base = two_runs()
    seconds, texts = dict.fromkeys("abcdef", 35.0), {"a": "x y z w", "b": "x y z w u v", "c": "x", "d": "x", "e": "x"}
    texts["f"] = texts["b"]
    runs = [{**texts, "b": "x y z w u", "c": "y"}, {**texts, "a": "x y", "f": "x y z w u", "c": "y"}]
    worse = score("worse", "test/35s", seconds, texts, named(runs))
    same = score("same", "test/35s", seconds, texts, named([{**run, "c": "x"} for run in runs]))
    other = score("other", "test/35s", seconds, texts, {".2": runs[0], ".3": runs[1]})
    systems = ["worse", "same", "other", "none"]
    text = " ".join(differences([base, worse, same, other], dict.fromkeys(systems, base.system)).split())
    # both runs of `worse` have one error more, the same: runs add nothing to the interval, chance of recordings does
    low, high = worse.above(base).interval
    assert low < 0 < high and f"| worse | +5.26 [{low:+.2f}, {high:+.2f}] |" in text
    assert "| same | +0.00 [+0.00, +0.00] |" in text and "| other | +5.26 | | none | - |" in text


def test_few_recordings_have_no_interval():
    texts = dict.fromkeys("abcde", "x y")
    found = score("s", "t", dict.fromkeys(texts, 9.0), texts, {"": {**texts, "a": "x"}})
    assert found.estimate is None and found.rates == [10.0]
    assert "\n| s     | 10.00 " in tables([found]) and "if there are 6 recordings or more" in tables([found])


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ScoringError, match="1 of 2 recordings.*b"):
        score("s", "t", {"a": 1, "b": 1}, {"a": "x", "b": "y"}, {"": {"a": "x"}})
    with pytest.raises(ScoringError, match="no words"):
        score("s", "t", {"a": 1}, {"a": ""}, {"": {"a": "x"}})


def test_tables_and_plot(tmp_path, monkeypatch):
    shorter = score("mine, windows", "test/9s", {"a": 9.0}, {"a": "x y"}, {"": {"a": "x"}})
    other = score("other, whole", "test/35s", {"a": 30.0, "b": 40.0}, {"a": "x", "b": "y"}, {"": {"a": "x", "b": "y"}})
    dev = score("mine, windows", "dev/9s", {"a": 9.0}, {"a": "x y"}, {"": {"a": "x"}})
    text = tables([two_runs(), shorter, other])
    header, _, mine, theirs = (" ".join(line.split()) for line in text.splitlines()[:4])
    assert header.split(" | ")[1:] == ["test/9s (9 s x 1)", "test/35s (35 s x 2) |"]
    assert mine.startswith("| mine, windows | 50.00 | 10.53 [") and mine.endswith("(5.26-15.79) |")
    assert theirs.startswith("| other, whole | - | 0.00 |")
    lines = []
    draw = Axes.errorbar
    monkeypatch.setattr(
        Axes, "errorbar", lambda *args, **more: lines.append((more["label"], args[1])) or draw(*args, **more)
    )
    plot([two_runs(), shorter, other], tmp_path / "plot")
    assert (tmp_path / "plot").read_bytes().startswith(b"\x89PNG")
    assert lines == [("mine, windows", [9.0, 35.0]), ("other, whole", [35.0])]
    lines.clear()
    plot([two_runs(), shorter, dev], tmp_path / "plot")  # the sets of a part make a line
    assert sorted(lines) == [("mine, windows, dev", [9.0]), ("mine, windows, test", [9.0, 35.0])]


def test_json_of_formats_is_read_back():
    from espnet_rand.longform import Transcript
    from espnet_rand.longform.formats import as_json, ctm, srt, vtt
    from espnet_rand.toolkit.recognition import Word

    words = [Word("a<b", 0.5, 0.75), Word("two", 1.0, 1.25), Word("late", 3661.5, 3662.0)]
    transcript = Transcript(words, 3700.0, True, [])
    assert ctm("key", transcript).splitlines()[0] == "key 1 0.50 0.25 a<b"
    assert srt(transcript).split("\n\n")[:2] == [
        "1\n00:00:00,500 --> 00:00:01,250\na<b two",
        "2\n01:01:01,500 --> 01:01:02,000\nlate",
    ]
    assert vtt(transcript).startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.250\na&lt;b two\n")
    assert json.loads(as_json("key", transcript))["words"][1] == {"text": "two", "start": 1.0, "end": 1.25}
