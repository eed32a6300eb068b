"""Alignments against all paths of small lattices."""

import itertools
from types import SimpleNamespace

import torch

from espnet_rand.toolkit.recognition.token_times import ctc_best_path, ctc_frames, transducer_frames, whisper_frames


def test_ctc_frames_are_those_of_the_best_path():
    for seed, tokens in enumerate([[1], [1, 2], [2, 2], [1, 2, 1]]):
        log_probs = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
        paths = [p for p in itertools.product(range(3), repeat=6) if collapsed(p) == tokens]
        best = max(paths, key=lambda p: sum(float(log_probs[t, c]) for t, c in enumerate(p)))
        spans, t = [], 0
        for symbol, run in itertools.groupby(best):
            length = len(list(run))
            spans += [(t, t + length)] if symbol else []
            t += length
        assert ctc_frames(log_probs, tokens, 0) == spans


def collapsed(path):
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def test_the_best_path_of_ctc():
    path = [0, 2, 2, 0, 2, 1, 1, 0]
    log_probs = torch.nn.functional.one_hot(torch.tensor(path), 3).float().log_softmax(-1)
    tokens, spans = ctc_best_path(log_probs, 0)
    assert tokens == [2, 2, 1] and spans == [(1, 3), (4, 5), (5, 7)]
    assert spans == ctc_frames(log_probs, tokens, 0)
    assert ctc_best_path(log_probs[:1], 0) == ([], [])
    assert ctc_best_path(log_probs[:2], 2) == ([0], [(0, 1)])


def test_tokens_that_do_not_fit_have_no_times():
    log_probs = torch.zeros(3, 3)
    assert ctc_frames(log_probs, [1, 1], 0) == [(0, 1), (2, 3)]
    assert ctc_frames(log_probs, [1, 1, 2], 0) is None


def test_transducer_frames_are_those_of_the_best_path():
    frames, tokens = 5, [2, 1, 1]
    for seed in range(5):
        table = torch.randn(1, frames, len(tokens) + 1, 3, generator=torch.Generator().manual_seed(seed)) * 2
        log_probs = table[0].log_softmax(-1)

        def score(at, log_probs=log_probs):  # `at`: the frame of each token
            total, u = 0.0, 0
            for t in range(frames):
                while u < len(tokens) and at[u] == t:
                    total += float(log_probs[t, u, tokens[u]])
                    u += 1
                total += float(log_probs[t, u, 0])
            return total

        best = max(itertools.combinations_with_replacement(range(frames), len(tokens)), key=score)
        # encoder and decoder states are numbers of frames and tokens; the joint network looks the table up
        encoded = torch.arange(float(frames)).view(1, frames, 1)
        found = transducer_frames(
            lambda enc, dec, table=table: table[:, enc[0, :, 0, 0].long()],
            lambda labels: torch.zeros(1, labels.size(1), 1),
            encoded,
            tokens,
            blank=0,
        )
        assert found == [(t, t + 1) for t in best]


def test_a_lattice_that_is_too_large_has_no_times():
    assert transducer_frames(None, None, torch.zeros(1, 10_000, 4), [1] * 1000, 0) is None


def whisper(tokens):
    """A decoder of `tokens` tokens whose later half attends, when token t is the last, to frames that hold t + 1."""
    attention = torch.nn.Module()
    attention.n_head, attention.query, attention.key = 1, torch.nn.Identity(), torch.nn.Identity()
    unused = SimpleNamespace(cross_attn=None)

    class Text:
        blocks = [unused, SimpleNamespace(cross_attn=attention)]
        positional_embedding = range(8)

        def __call__(self, ids, encoded):
            attention.query(torch.nn.functional.one_hot(ids + 1, tokens + 1).float())
            attention.key(30 * torch.nn.functional.one_hot(encoded[..., 0].long(), tokens + 1).float())

    return SimpleNamespace(decoders=Text())


def test_whispers_tokens_are_in_the_frames_that_its_decoder_attends_to():
    lengths = {2: 10, 3: 25, 4: 15, 5: 30}  # of the tokens 2 to 5 in frames; 5 is the last of the text, 6 its end
    frames = torch.cat([torch.full((n, 1), float(t)) for t, n in {**lengths, 6: 20}.items()])[None]
    spans = whisper_frames(whisper(6), frames, [0, 1], [2, 3, 4, 5])
    assert spans == [(0, 10), (10, 35), (35, 50), (50, 80)]
    assert whisper_frames(whisper(6), frames[:, :3], [0, 1], [2, 3, 4, 5]) is None
    assert whisper_frames(whisper(6), frames, [0, 1], [2] * 7) is None  # more than there are positions


def test_attention_that_is_the_same_for_all_tokens_gives_some_times():
    spans = whisper_frames(whisper(6), torch.full((1, 40, 1), 6.0), [0, 1], [2, 3])
    assert len(spans) == 2 and all(0 <= start < end <= 40 for start, end in spans)
