"""ESPnet's search, with weights and a beam that fit the model.

By default it adds up the scores of an attention decoder and of CTC, and keeps 20 hypotheses. A model without the one
or the other, or with fewer tokens, gives words that nobody said, or an error of torch.
"""

import functools
import inspect
import logging
from typing import Any, Dict, List, Mapping, Tuple

from espnet_rand.options import OptionError

try:
    from espnet2.legacy.nets.beam_search import BeamSearch
except ImportError:  # ESPnet 202511
    from espnet.nets.beam_search import BeamSearch


def register() -> None:
    """Give each search that ESPnet makes from now on what fits its model. A warning says what was changed."""
    original = BeamSearch.__init__

    @functools.wraps(original)
    def fitted(search, *args, **kwargs):
        given = inspect.signature(original).bind(search, *args, **kwargs).arguments
        changes, notes = _changes(given["scorers"], given["weights"], given["beam_size"], given["vocab_size"])
        for note in notes:
            logging.warning(f"espnet_rand: {note}. It is set to that")
        original(**{**given, **changes})

    BeamSearch.__init__ = fitted


def check(speech2text: Any) -> None:
    """Refuse a Speech2Text whose search does not fit its model, as one that was made before `register`.

    Raises:
        OptionError: its weights, or its beam, do not fit
    """
    search, model = getattr(speech2text, "beam_search", None), speech2text.asr_model
    if not isinstance(search, BeamSearch):
        return
    has = {"decoder": model.decoder, "ctc": getattr(model, "ctc", None)}
    _, notes = _changes({**search.scorers, **has}, search.weights, search.beam_size, search.n_vocab)
    if notes:
        raise OptionError(f"{notes[0]}. Mend: give Speech2Text that, or call espnet_rand.register() before it")


def _changes(
    scorers: Mapping[str, Any], weights: Mapping[str, float], beam_size: int, tokens: int
) -> Tuple[Dict[str, Any], List[str]]:
    """What a search must have in place of what it is given: arguments of BeamSearch, and what is to be said."""
    changes: Dict[str, Any] = {}
    notes: List[str] = []
    if not {"decoder", "ctc"} <= scorers.keys():  # a language model's, a translation's
        return changes, notes
    given, fits = weights["ctc"], _ctc_weight(scorers, weights)
    if fits != given:
        lacks = "CTC" if fits == 0.0 else "attention decoder"
        notes.append(f"ctc_weight {given:g}: the model has no {lacks}, it must be {fits:g}")
        changes["weights"] = {**weights, "ctc": fits, "decoder": 1.0 - fits}
        changes["pre_beam_score_key"] = "full" if fits == 0.0 else None
    most = tokens - 1 if fits else tokens  # if CTC's blank is kept, the search ends there, with nothing
    if beam_size > most:
        notes.append(f"beam_size {beam_size}: the model has {tokens} tokens, it must be at most {most}")
        changes["beam_size"] = most
    return changes, notes


def _ctc_weight(scorers: Mapping[str, Any], weights: Mapping[str, float]) -> float:
    """The weight of CTC that fits the scorers, which is the one in `weights` where that fits."""
    weight = weights["ctc"]
    ctc = getattr(scorers["ctc"], "ctc", scorers["ctc"])  # ESPnet makes a scorer of no CTC, too
    if scorers["decoder"] is not None:
        return 0.0 if ctc is None else weight
    # beside a language model any weight has a meaning, but for 0: nothing would hear the recording
    others = {name for name, scorer in scorers.items() if scorer is not None and weights.get(name)}
    return weight if ctc is None or (weight and others - {"ctc", "length_bonus"}) else 1.0
