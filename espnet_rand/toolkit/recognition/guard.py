"""Guards against what attention decoders say that nobody said: words over and over, and words on noise.

Models with CTC and transducers need no guard: their scores tie each token to frames.
"""

import math
import threading
from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Tuple

import torch
from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder
from torch import Tensor

from espnet_rand.toolkit.recognition.loops import ends_in_loop, without_loops
from espnet_rand.toolkit.search import BeamSearch, primed

# the score of a token that must not come next: no search gains as much
_NEVER = -1e6

# No speech takes two signs. There are next to no tokens a second, as in noise (speech had 1.2 or more). And Whisper
# itself says so: by a high probability of <|nospeech|> as the first token, or a low one with a low mean
# log-probability of the text's tokens. (A model that was trained on speech alone gives it 0.02 at most in speech, and
# 0.1 to 0.6 in noise. OpenAI's own gives up to 0.18 for a short sentence in 20 s of a quiet room, and 0.65 or more in
# noise.)
_TOKENS_A_SECOND = 1.0
# mean log-probability of a text that went astray (logprob_threshold of OpenAI's own decoding)
_ASTRAY = -1.0
# probability of <|nospeech|>, and the mean log-probability below which it tells
_TELLS = ((0.6, 0.0), (0.2, -0.4), (0.05, _ASTRAY))
_START, _NO_SPEECH = "<|startoftranscript|>", ("<|nospeech|>", "<|nocaptions|>")


def guards(speech2text: Any) -> bool:
    """Whether an ESPnet Speech2Text searches by an attention decoder alone, in a search that can be guarded."""
    search = getattr(speech2text, "beam_search", None)
    return isinstance(search, BeamSearch) and "decoder" in search.full_scorers and "ctc" not in search.scorers


class Verdict(NamedTuple):
    """The guard's judgement of a hypothesis.

    Attributes:
        ids: the numbers of the tokens, each loop once
        looped: whether there was a loop
        full: whether the decoder had no more room
        nospeech: the probability of <|nospeech|> as the first token; 0 of models other than Whisper
        mean: the mean log-probability of the text's tokens
        rate: tokens a second
    """

    ids: List[int]
    looped: bool
    full: bool
    nospeech: float
    mean: float
    rate: float

    @property
    def no_speech(self) -> bool:
        """Whether nobody speaks. Without silence behind the recording, speech may pass for none."""
        told = any(self.nospeech > probability and self.mean < mean for probability, mean in _TELLS)
        return told and self.rate < _TOKENS_A_SECOND

    @property
    def astray(self) -> bool:
        """Whether the text is hardly what somebody said."""
        return self.looped or self.full or self.mean < _ASTRAY


def judge(speech2text: Any, encoded: Tensor, hypothesis: Any, seconds: float) -> Verdict:
    """Judge the hypothesis that a guarded search gave for a recording of so many seconds.

    Args:
        encoded: the encoder's output, (1, frames, values)
        hypothesis: the best one of the search
    """
    search, model = speech2text.beam_search, speech2text.asr_model
    everything = [int(i) for i in hypothesis.yseq]
    ids = everything[primed(search) : -1]
    once = without_loops([model.token_list[i] for i in ids], ids)
    own = isinstance(model.decoder, OpenAIWhisperDecoder) and model.token_list[model.sos] == _START
    return Verdict(
        ids=[i for i in once if i != 0],  # which ESPnet leaves out
        looped=len(once) < len(ids),
        full=len(everything) > _room(search.full_scorers["decoder"]),
        nospeech=_no_speech(model, encoded[0]) if own else 0.0,
        mean=float(hypothesis.scores["decoder"]) / (len(ids) + 1) if own else 0.0,
        rate=len(once) / seconds,
    )


def _room(decoder: Any) -> float:
    """The number of tokens that a decoder takes; infinity if it is not limited."""
    positions = getattr(getattr(decoder, "decoders", None), "positional_embedding", None)
    return math.inf if positions is None else len(positions)  # Whisper has them


def _no_speech(model: Any, encoded: Tensor) -> float:
    """Whisper's probability of <|nospeech|> as the first token."""
    tokens = [i for i, token in enumerate(model.token_list) if token in _NO_SPEECH]
    first, _ = model.decoder.score(torch.tensor([model.sos], device=encoded.device), None, encoded)
    return float(first[tokens].exp().sum())


class _Guarded:
    """A decoder in ESPnet's search that ends its text where it loops, or where it has no more room."""

    def __init__(self, decoder: Any, eos: int, token_list: List[str]):
        self.decoder = decoder
        self.eos = eos
        self.token_list = token_list
        self.room = _room(decoder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def score(self, y: Tensor, state: Any, x: Tensor) -> Tuple[Tensor, Any]:
        """Score the next token, (vocabulary,), after the tokens y, (tokens,)."""
        if len(y) >= self.room:
            return self._end(x.new_empty(len(self.token_list))), state
        scores, state = self.decoder.score(y, state, x)
        return self._ended(scores[None], y[None])[0], state

    def batch_score(self, ys: Tensor, states: List[Any], xs: Tensor, **more: Any) -> Tuple[Tensor, Any]:
        """Score the next tokens of several hypotheses, (hypotheses, vocabulary)."""
        if ys.size(1) >= self.room:
            return self._end(xs.new_empty(len(ys), len(self.token_list))), states
        scores, *rest = self.decoder.batch_score(ys, states, xs, **more)
        return (self._ended(scores, ys), *rest)

    def _ended(self, scores: Tensor, ys: Tensor) -> Tensor:
        """The scores after hypotheses, with an end for those that loop."""
        looping = [i for i, y in enumerate(ys.tolist()) if ends_in_loop([self.token_list[token] for token in y])]
        if looping:
            scores = scores.clone()
            scores[looping] = self._end(scores[looping])
        return scores

    def _end(self, scores: Tensor) -> Tensor:
        """Let a text end at no cost: else a search would rather change a word within the loop."""
        scores.fill_(_NEVER)
        scores[..., self.eos] = 0.0
        return scores


_changing = threading.Lock()


@contextmanager
def guarding(speech2text: Any) -> Iterator[None]:
    """Guard the search's decoder inside the block; for other threads as well, if they share the search."""
    search, token_list = speech2text.beam_search, speech2text.asr_model.token_list
    places = (search.scorers, search.full_scorers)
    with _changing:
        inside = search.__dict__["_guards"] = search.__dict__.get("_guards", 0) + 1
        if inside == 1:
            guarded = _Guarded(search.full_scorers["decoder"], search.eos, token_list)
            for scorers in places:
                scorers["decoder"] = guarded
    try:
        yield
    finally:
        with _changing:
            search._guards -= 1
            if not search._guards:
                for scorers in places:
                    scorers["decoder"] = scorers["decoder"].decoder
