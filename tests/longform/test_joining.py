"""No word is lost or doubled, wherever the joint falls."""

import pytest

from espnet_rand.longform import LongForm
from espnet_rand.longform.joining import join
from espnet_rand.toolkit.recognition import Heard, Word

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
