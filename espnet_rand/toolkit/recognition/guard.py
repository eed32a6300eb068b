"""Attention decoders say things that nobody said: words over and over, and words on noise.

A CTC model or a transducer has neither habit: it says what it says frame by frame.
"""

import math
from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder
from torch import Tensor

try:
    from espnet2.legacy.nets.beam_search import BeamSearch
    from espnet2.legacy.nets.scorer_interface import BatchScorerInterface
except ImportError:  # ESPnet 202511
    from espnet.nets.beam_search import BeamSearch
    from espnet.nets.scorer_interface import BatchScorerInterface

# a loop: the same tokens REPEATS times or more in a row, LOOP tokens together. "Har har har har" is none.
_REPEATS, _LOOP = 4, 24
_LONGEST_PERIOD = 32
# what a token that is not to follow loses: more than a search gains by it
_PENALTY = -1e6

# No speech: the model says so itself (Whisper's <|nospeech|> in place of its first token), or half says so and is
# unsure of its text: probability, and mean log-probability of the text's tokens
_SURELY, _PERHAPS, _UNSURE = 0.6, 0.2, -0.4
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")


class Loop(NamedTuple):
    """Tokens that are said over and over.

    Attributes:
        start: number of the first token
        period: tokens that are repeated
        stop: number of the token after the last
    """

    start: int
    period: int
    stop: int


def find_loop(tokens: Sequence[int]) -> Optional[Loop]:
    """The first loop among tokens."""
    found = [loop for period in range(1, _LONGEST_PERIOD + 1) if (loop := _loop_of(tokens, period))]
    return min(found, default=None)


def _loop_of(tokens: Sequence[int], period: int) -> Optional[Loop]:
    enough = _enough(period)
    same = 0
    for i in range(period, len(tokens)):
        same = same + 1 if tokens[i] == tokens[i - period] else 0
        if same + period >= enough:
            start, stop = i + 1 - enough, i + 1
            while stop < len(tokens) and tokens[stop] == tokens[stop - period]:
                stop += 1
            return Loop(start, period, stop)
    return None


def _enough(period: int) -> int:
    """How many tokens make a loop."""
    return max(_REPEATS * period, _LOOP)


def _loops(tokens: Sequence[int]) -> bool:
    """Whether tokens end in a loop."""
    for period in range(1, _LONGEST_PERIOD + 1):
        end = tokens[-_enough(period) :]
        if len(end) == _enough(period) and end[period:] == end[:-period]:
            return True
    return False


class Guard(BatchScorerInterface):
    """A scorer of ESPnet's search: hypotheses that loop end, and those for which the decoder has no more room.

    Args:
        eos: the token that ends a hypothesis
        vocabulary: number of tokens
        room: tokens that the decoder takes at most
    """

    def __init__(self, eos: int, vocabulary: int, room: float = math.inf):
        self.eos = eos
        self.vocabulary = vocabulary
        self.room = room

    def score(self, y: Tensor, state: Any, x: Tensor) -> Tuple[Tensor, Any]:
        """Of the next token, (vocabulary,), after the tokens y, (tokens,)."""
        scores, _ = self.batch_score(y[None], [state], x[None])
        return scores[0], state

    def batch_score(self, ys: Tensor, states: List[Any], xs: Tensor) -> Tuple[Tensor, Any]:
        """The same of several hypotheses, (hypotheses, vocabulary)."""
        scores = xs.new_zeros(len(ys), self.vocabulary)
        for row, y in zip(scores, ys.tolist()):
            if len(y) >= self.room or _loops(y):
                row += _PENALTY
                row[self.eos] = 0.0
        return scores, None


def attends(speech2text: Any) -> bool:
    """Whether an ESPnet Speech2Text says what an attention decoder says."""
    search = getattr(speech2text, "beam_search", None)
    return getattr(speech2text, "hugging_face_model", None) is not None or "decoder" in getattr(search, "scorers", ())


@contextmanager
def guarding(speech2text: Any) -> Iterator[None]:
    """Inside, the search of an ESPnet Speech2Text has a Guard, if it is one that takes scorers."""
    search = speech2text.beam_search
    if not isinstance(search, BeamSearch):
        yield
        return
    positions = getattr(getattr(search.full_scorers["decoder"], "decoders", None), "positional_embedding", None)
    room = math.inf if positions is None else len(positions)  # of Whisper
    places = (search.scorers, search.full_scorers)
    guard = Guard(search.eos, search.n_vocab, room)
    for scorers in places:
        scorers["guard"] = guard
    search.weights["guard"] = 1.0
    try:
        yield
    finally:
        for scorers in (*places, search.weights):
            del scorers["guard"]


def no_speech(model: Any, encoded: Tensor, hypothesis: Any) -> bool:
    """Whether Whisper itself says that there is no speech. No other model can.

    Args:
        model: of ESPnet
        encoded: its encoder's output, (1, frames, values)
        hypothesis: the best of its search
    """
    if not isinstance(model.decoder, OpenAIWhisperDecoder):
        return False
    tokens = [i for i, token in enumerate(model.token_list) if token in _NO_SPEECH]
    if not tokens:
        return False
    first, _ = model.decoder.score(torch.tensor([model.sos], device=encoded.device), None, encoded[0])
    probability = float(first[tokens].exp().sum())
    said = len(hypothesis.yseq) - 1
    mean = float(hypothesis.scores.get("decoder", 0.0)) / said
    return probability > _SURELY or (probability > _PERHAPS and mean < _UNSURE)
