"""The searches of the example that decodes with numpy and onnxruntime alone."""

import itertools

import numpy as np
import pytest

from espnet_rand.export.examples import decode_onnx


def collapsed(path):
    return tuple(token for token, _ in itertools.groupby(path) if token != 0)


@pytest.mark.parametrize("seed", range(3))
def test_prefixes_have_the_probability_of_all_their_paths(seed):
    log_probs = np.log(np.random.default_rng(seed).dirichlet(np.ones(3), 5))
    sums = {}
    for path in itertools.product(range(3), repeat=5):
        score = sum(frame[token] for frame, token in zip(log_probs, path))
        sums[collapsed(path)] = np.logaddexp(sums.get(collapsed(path), -np.inf), score)
    expected = sorted(sums.items(), key=lambda item: -item[1])
    found = decode_onnx.ctc_search(log_probs, beam=1000)
    assert [tuple(ids) for ids, _ in found] == [ids for ids, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected])
    assert decode_onnx.ctc_greedy(log_probs) == list(collapsed(log_probs.argmax(1)))
    assert decode_onnx.ctc_search(log_probs, beam=4)[0][0] == list(expected[0][0])
