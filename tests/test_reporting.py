"""Estimates against what is known of them."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from espnet_rand import reporting
from espnet_rand.reporting import estimate, following, joined


def test_without_a_terminal_a_line_a_minute_says_how_far_it_is(monkeypatch, capsys):
    now = iter(range(0, 1000, 40))
    monkeypatch.setattr(reporting.time, "monotonic", lambda: next(now))
    assert [*following("abcd", "weights")] == ["a", "b", "c", "d"]
    assert capsys.readouterr() == ("", "weights: 4\nweights: 2 of 4, about 2 min left\n")


def test_one_run_is_the_bootstrap_over_sentences():
    errors, words = np.array([[3, 0, 1, 8, 2]]), np.array([20, 10, 30, 40, 10])
    found = estimate(errors, words)
    assert found == estimate(errors, words) and found.value == pytest.approx(1400 / 110)
    # the variance of a ratio (linearized) is near it
    residual = errors[0] - words * 14 / 110
    assert found.error == pytest.approx(100 * np.sqrt((residual**2).sum()) / 110, rel=0.1)
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(2.7764 * found.error, rel=1e-3)  # of five


def test_where_runs_differ_it_is_the_t_interval_of_their_mean():
    errors, words = np.array([[1] * 400, [2] * 400, [6] * 400]), np.full(400, 10)
    found = estimate(errors, words)
    rates = np.array([10, 20, 60])
    assert found.value == 30 and found.error == pytest.approx(rates.std(ddof=1) / np.sqrt(3))
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(4.3027 * found.error, rel=1e-3)
    assert found.p == pytest.approx(ttest_1samp(rates, 0).pvalue)


@pytest.mark.parametrize("of_runs, of_sentences", [(1.0, 0.05), (0.0, 1.0), (0.15, 1.0)])
def test_one_in_twenty_leaves_out_the_truth(of_runs, of_sentences):
    rng = np.random.default_rng(0)
    words = np.full(40, 10)
    missed = 0
    for _ in range(400):
        errors = of_runs * rng.standard_normal((3, 1)) + of_sentences * rng.standard_normal(40)
        found = estimate(errors, words)
        low, high = found.interval
        assert (low <= 0 <= high) == (found.p >= 0.05)
        missed += not low <= 0 <= high
    assert 0.02 < missed / 400 < 0.09


def test_runs_of_two_systems_are_compared_in_pairs_if_there_are_as_many():
    values, drawn = np.array([10.0, 20.0, 30.0]), np.zeros(99)
    paired = joined(values, drawn, 50, baseline=values - [1, 2, 3])
    rates = np.array([1, 2, 3])
    assert paired.value == 2 and paired.p == pytest.approx(ttest_1samp(rates, 0).pvalue)
    unpaired = joined(values, drawn, 50, baseline=np.array([9.0, 21.0]))
    test = ttest_ind(values, [9, 21], equal_var=False)
    assert unpaired.value == 5 and unpaired.p == pytest.approx(test.pvalue)


def test_no_difference_at_all():
    found = estimate(np.zeros((3, 5)), np.full(5, 2))
    assert found.interval == (0, 0) and found.p == 1
