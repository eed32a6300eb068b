"""Gives ESPnet's search weights and a beam that fit the model.

By default the search adds up the scores of an attention decoder and of CTC, and keeps 20 hypotheses. A model without
one of the two, or with fewer tokens, gives words that nobody said, or an error of torch.
"""

import functools
import inspect
import logging
from typing import Any, Dict, List, Mapping, Tuple

from espnet2.mt.espnet_model import ESPnetMTModel

from espnet_rand.options import OptionError

try:
    from espnet2.legacy.nets.batch_beam_search_online_sim import BatchBeamSearchOnlineSim
    from espnet2.legacy.nets.beam_search import BeamSearch
except ImportError:  # ESPnet 202511
    from espnet.nets.batch_beam_search_online_sim import BatchBeamSearchOnlineSim
    from espnet.nets.beam_search import BeamSearch


#: ESPnet's weight of CTC, where a user gives none.
_DEFAULT = 0.5


def register() -> None:
    """Let each search that ESPnet makes from now on fit its model. A warning says what was changed."""
    original = BeamSearch.__init__

    @functools.wraps(original)
    def fitted(search, *args, **kwargs):
        given = inspect.signature(original).bind(search, *args, **kwargs).arguments
        changes, notes = _changes(given)
        for note in notes:
            logging.warning(f"espnet_rand: {note}. It is set to that")
        original(**{**given, **changes})

    BeamSearch.__init__ = fitted


def without_ctc(model: Any) -> None:
    """Let a translation model say that it has no CTC: ESPnet's `mt_inference` asks for it by default, and fails."""
    if isinstance(model, ESPnetMTModel) and not hasattr(model, "ctc"):
        model.ctc = None


def primed(search: BeamSearch) -> int:
    """Count the tokens of a hypothesis that stand before the first of its text."""
    return len(search.hyp_primer) if getattr(search, "hyp_primer", None) else 1


def cut(speech2text: Any, hypothesis: Any, frames: int) -> bool:
    """Whether ESPnet's search ended a hypothesis, for it had as many tokens as are allowed, and not the model.

    Those are what `maxlenratio` says; where that is 0, as many as the encoder has frames.
    """
    search, ratio = getattr(speech2text, "beam_search", None), getattr(speech2text, "maxlenratio", 0.0)
    if not isinstance(search, BeamSearch):
        return False
    most = -int(ratio) if ratio < 0 else max(1, int(ratio * frames)) if ratio else frames
    ids = [int(i) for i in hypothesis.yseq[primed(search) : -1]]
    return len(ids) >= most and ids[-1] != search.eos  # the model's own end has the search's behind it


def check(speech2text: Any) -> None:
    """Check that the search of a Speech2Text fits its model. One that was made before `register` may not.

    Raises:
        OptionError: its weights, or its beam, do not fit; or `streaming` has a `maxlenratio` below 0, which that search
            takes for one token
    """
    search, model = getattr(speech2text, "beam_search", None), speech2text.asr_model
    if not isinstance(search, BeamSearch):
        return
    if isinstance(search, BatchBeamSearchOnlineSim) and speech2text.maxlenratio < 0:
        raise OptionError(
            f"maxlenratio {speech2text.maxlenratio:g}: ESPnet's search with streaming would end each text after one "
            "token. Fix: give --maxlenratio 0, or --streaming false"
        )
    has = {"decoder": model.decoder, "ctc": getattr(model, "ctc", None)}
    given = {"scorers": {**search.scorers, **has}, "weights": search.weights, "beam_size": search.beam_size}
    _, notes = _changes({**given, "vocab_size": search.n_vocab, "pre_beam_score_key": search.pre_beam_score_key})
    if notes:
        raise OptionError(f"{notes[0]}. Fix: give Speech2Text that, or call espnet_rand.register() before it")


def _changes(given: Mapping[str, Any]) -> Tuple[Dict[str, Any], List[str]]:
    """Find the arguments of BeamSearch that do not fit, and the values that do; return these, and notes on them."""
    changes: Dict[str, Any] = {}
    notes: List[str] = []
    scorers, tokens = given["scorers"], given["vocab_size"]
    weight = fits = given["weights"].get("ctc", 0.0)
    if {"decoder", "ctc"} <= scorers.keys():  # else a language model's, a translation's
        ctc = getattr(scorers["ctc"], "ctc", scorers["ctc"])  # ESPnet makes a scorer where there is no CTC, too
        if scorers["decoder"] is not None and ctc is None:
            fits = 0.0
            if given.get("pre_beam_score_key") is None and weight:
                changes["pre_beam_score_key"] = "full"
        elif scorers["decoder"] is None and ctc is not None:
            fits = _alone(scorers, given["weights"])
            if given.get("pre_beam_score_key") is not None:
                changes["pre_beam_score_key"] = None  # or the others choose the tokens that CTC may score
                notes += ["without an attention decoder CTC must score all tokens"] if fits == weight else []
    if fits != weight:
        lacks = "CTC" if fits == 0.0 else "attention decoder"
        notes.append(f"ctc_weight {weight:g}: the model has no {lacks}, it must be {fits:g}")
        changes["weights"] = {**given["weights"], "ctc": fits}
        if given["weights"].get("decoder") == 1.0 - weight:  # as ESPnet's programs give it
            changes["weights"]["decoder"] = 1.0 - fits
    most = tokens - 1 if fits else tokens  # if CTC's blank is kept, the search ends there, with nothing
    if given["beam_size"] > most:
        notes.append(f"beam_size {given['beam_size']}: the model has {tokens} tokens, it must be at most {most}")
        changes["beam_size"] = most
    return changes, notes


def _alone(scorers: Mapping[str, Any], weights: Mapping[str, float]) -> float:
    """The weight of CTC without an attention decoder: 1, or the user's own where there is a language model."""
    weight = weights.get("ctc", 0.0)
    beside = any(scorers.get(name) is not None and weights.get(name) for name in ("lm", "ngram"))
    return weight if beside and weight not in (0.0, _DEFAULT) else 1.0
