"""No word is lost or doubled, wherever the joint falls."""

import pytest

from espnet_rand.longform import LongForm
from espnet_rand.longform.joining import join
from espnet_rand.toolkit.recognition import Heard, Word, join_text

from .stub import RATE, Stub, ramp, spoken

DIGITS = "zero one two two two three four four five six seven seven seven seven eight nine one two one two".split()  # noqa: SIM905


def words(text, start=0.0, seconds=0.4):
    return spoken(text.split(), start, seconds, 0.1)


def texts(found):
    return " ".join(word.text for word in found)


@pytest.mark.parametrize("cut", ["part", "lost", "other"])
def test_every_place_of_the_joint(cut):
    # the windows stay; what is said moves by 30 ms, through more than the longest word
    for shift in range(0, 2 * RATE, 3):
        said = spoken(DIGITS * 3, start=shift / RATE)
        seconds = said[-1].end + 0.5
        for window, overlap in ((10, 3), (5, 2)):
            found = LongForm(Stub(said, cut), window=window, overlap=overlap)(ramp(seconds))
            assert found.text == texts(said), (shift, window)
            assert all(abs(a.start - b.start) < 0.05 for a, b in zip(found.words, said))


def test_every_place_of_the_joint_without_times():
    sentence = "so the windows are joined on what both of them saw and no word of it is lost or said twice".split()  # noqa: SIM905
    sentence += "where the model has no clock but only its letters to go by in what it hears of the talk".split()  # noqa: SIM905
    for shift in range(0, 2 * RATE, 5):
        said = spoken(sentence * 2, start=shift / RATE)
        found = LongForm(Stub(said, "lost", timed=False), window=10, overlap=4)(ramp(said[-1].end + 0.5))
        assert found.text == texts(said), shift
        assert not found.timed


def test_no_word_is_lost_where_pieces_without_times_have_none_in_common():
    # the words of 10 s are spread evenly: those that the later piece heard at its end lie in the overlap
    said, heard = spoken(["a", "b", "c"], 0.0, 3.0), spoken(["x", "y"], 6.0, 5.0)
    for timed, times in ((True, False), (False, True), (False, False)):
        assert texts(join(said, Heard(heard, times), 6.0, 10.0, timed)) == "a b c x y"


@pytest.mark.parametrize("cut", ["part", "lost", "other"])
@pytest.mark.parametrize("pause", [1.0, 2.0, 3.5])
def test_every_place_of_a_pause(cut, pause):
    for shift in range(0, 2 * RATE, 3):
        said, start = [], shift / RATE
        while start < 40:
            said += spoken(DIGITS[len(said) % 5 :][:3], start)
            start = said[-1].end + pause
        for window, overlap in ((10, 3), (5, 1)):
            found = LongForm(Stub(said, cut), window=window, overlap=overlap)(ramp(start))
            assert found.text == texts(said), (shift, window)


@pytest.mark.parametrize("seconds", [0.5, 9.9, 10.0, 10.1, 13.0, 17.0, 17.01, 24.0, 600.0])
def test_every_length(seconds):
    said = [word for word in spoken(DIGITS * 80) if word.end <= seconds]
    stub = Stub(said)
    assert LongForm(stub, window=10, overlap=3)(ramp(seconds)).text == texts(said)
    assert len(stub.calls) == max(1, -(-round((seconds - 3) * 100) // 700))


def test_where_they_disagree_the_middle_counts():
    # both saw 6 to 10 s
    before, after = words("a b c d", 6.0, 0.6), words("w x y z", 6.0, 0.6)
    found = join([Word("first", 1, 2), *before], Heard([*after, Word("last", 12, 13)]), 6.0, 10.0, True)
    middle = [word.text for word in before if word.middle < 8] + [word.text for word in after if word.middle >= 8]
    assert texts(found) == " ".join(["first", *middle, "last"])


def test_one_word_across_the_middle_heard_differently():
    found = join([Word("for", 7.6, 8.3)], Heard([Word("four", 7.8, 8.4)]), 6.0, 10.0, True)
    assert len(found) == 1


def test_what_only_one_heard_is_kept():
    later = Heard(words("c d e f g", 6.5))
    assert texts(join(words("a b", 1), later, 6.0, 10.0, True)) == "a b c d e f g"
    earlier = words("a b c d", 6.1)
    assert texts(join(earlier, Heard(words("x y", 11)), 6.0, 10.0, True)) == "a b c d x y"
    assert texts(join(earlier, Heard([]), 6.0, 10.0, True)) == "a b c d"
    # the end of a word that only the earlier piece saw whole, and the beginning of one that only the later did
    assert texts(join([Word("seven", 5.6, 6.3)], Heard([Word("ven", 6.05, 6.3)]), 6.0, 10.0, True)) == "seven"
    assert texts(join([Word("se", 9.7, 9.95)], Heard([Word("seven", 9.7, 10.5)]), 6.0, 10.0, True)) == "seven"


def test_a_decoder_that_stopped_early_is_made_up_for():
    said = spoken(DIGITS * 3)

    class Stops(Stub):
        def __call__(self, samples):
            heard = super().__call__(samples)
            return Heard([word for word in heard.words if word.end < 8]) if len(self.calls) == 2 else heard

    assert LongForm(Stops(said), window=10, overlap=4)(ramp(said[-1].end + 1)).text == texts(said)


def test_without_an_overlap_pieces_follow_one_another():
    assert texts(join(words("a b"), Heard(words("b c", 2)), 2.0, 2.0, True)) == "a b b c"


def estimated(text, start, end):
    """The words of a text, spread evenly."""
    texts = text.split()
    step = (end - start) / len(texts)
    return [Word(t, start + n * step, start + (n + 1) * step, " " if n else None) for n, t in enumerate(texts)]


@pytest.mark.parametrize(
    "earlier, later, whole",
    [
        (
            "My fellow Americans, ask not.",
            "Ask not what your country",
            "My fellow Americans, ask not what your country",
        ),
        ("it was said so. Then", "Said so. Then he left", "it was said so. Then he left"),
        ("we saw the U.S.", "U.S. Army there", "we saw the U.S. Army there"),
        ("we saw the U.S.", "US Army there", "we saw the US Army there"),
        ('and he said "no', 'No." And went', 'and he said "no." And went'),
        ("one - two ...", "ONE. Two, three", "one - two, three"),
        ("and Straße!", "STRASSE und", "and Straße und"),
    ],
)
def test_joints_without_times_go_by_words_without_case_and_punctuation(earlier, later, whole):
    found = join(estimated(earlier, 0, 10), Heard(estimated(later, 5, 15), False), 5, 10, False)
    assert join_text(found) == whole


def test_joints_with_times_go_by_words_without_case_and_punctuation():
    found = join(words("so ask not.", 8.0), Heard(words("Ask not what", 8.5)), 8.2, 10.0, True)
    assert texts(found) == "so ask not what"


def test_punctuation_alone_is_a_word_by_itself():
    for timed in (True, False):
        earlier = [Word("a", 7.0, 7.2), Word("。", 8.0, 8.1)]
        found = join(earlier, Heard([Word("、", 8.0, 8.1), Word("b", 9.0, 9.2)], timed), 6.0, 10.0, timed)
        assert texts(found) == ("a 、 b" if timed else "a 。 、 b")


@pytest.mark.parametrize("times", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("later", ["f g h i j k l m n o p q", "x y z", "e. I"])
def test_starts_do_not_go_back_at_a_joint(times, later):
    # estimates may be seconds off
    said, heard = estimated("a b c d e f g", 0, 10), estimated(later, 6, 16)
    if times == (True, True):
        said, heard = [Word("a", 7.9, 8.0)], [Word("a", 7.7, 7.8), Word("b", 7.85, 8.3)]
    found = join(said, Heard(heard, times[1]), 6, 10, times[0])
    starts = [word.start for word in found]
    assert starts == sorted(starts) and all(word.end >= word.start for word in found)
    assert found[0].start == said[0].start and found[-1].end == heard[-1].end


def characters(text, start, seconds=0.3):
    """Each character with a space before it where the text has one."""
    found = []
    for n, character in enumerate(text):
        space = " " if text[n - 1 : n] == " " else "" if n else None
        if character != " ":
            found.append(Word(character, start + n * seconds, start + (n + 1) * seconds, space))
    return found


@pytest.mark.parametrize("cut", range(2, 12))
def test_the_spaces_of_a_text_are_kept_wherever_the_joint_falls(cut):
    text = "你好 世2月 界 5日 了ok"
    said = characters(text, 0.0)
    # each piece hears three characters more than it has to itself
    start, end = cut * 0.3, min(len(text), cut + 3) * 0.3
    earlier = [word for word in said if word.end <= end + 0.01]
    later = [word for word in said if word.start >= start - 0.01]
    later[0] = later[0]._replace(space_before=None)
    for timed in (True, False):
        assert join_text(join(earlier, Heard(later, timed), start, end, timed)) == text


@pytest.mark.parametrize(
    "earlier, later, whole",
    [("世", "界", "世界"), ("in", "on", "in on"), ("年", "5", "年5"), ("5", "月", "5月"), ("ok", "好", "ok 好")],
)
def test_where_nothing_says_whether_there_is_a_space(earlier, later, whole):
    said = [Word(earlier, 0.0, 0.5)]
    assert join_text(join(said, Heard([Word(later, 1.0, 1.5)]), 1.0, 1.0, True)) == whole
    # a space that the later piece begins with
    assert join_text(join(said, Heard([Word(later, 1.0, 1.5, " ")]), 1.0, 1.0, True)) == f"{earlier} {later}"


def test_a_space_next_to_another_word_than_in_its_text():
    # of the later piece's 年5 the middle cuts 年, for which the earlier has a word of another script
    said = [Word("hello", 7.0, 7.6)]
    assert join_text(join(said, Heard([Word("年", 7.1, 7.5), Word("5", 8.4, 8.8, "")]), 6.0, 10.0, True)) == "hello 5"
    # the earlier piece knows of a space, where the later begins
    said = [Word("世", 7.0, 7.5), Word("界", 8.5, 9.0, " ")]
    assert join_text(join(said, Heard([Word("戒", 8.5, 9.0)]), 6.0, 10.0, True)) == "世 戒"
