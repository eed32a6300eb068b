"""ESPnet's search by default, of models that it does not fit: without an attention decoder, without CTC, few tokens."""

import numpy as np
import pytest
import torch

import espnet_rand

espnet_rand.register()
from espnet2.bin.asr_inference import Speech2Text  # noqa: E402

from espnet_rand.longform import LongForm  # noqa: E402
from espnet_rand.options import OptionError  # noqa: E402
from espnet_rand.toolkit import search  # noqa: E402
from tests.longform import tones  # noqa: E402

from .tasks import TOKENS, write_config  # noqa: E402


@pytest.fixture(scope="module")
def tune():
    rng = np.random.default_rng(1)
    names = tones.names(8, rng)
    return " ".join(names), tones.melody(names, rng)[0]


@pytest.fixture(scope="module", params=[4, 64], ids=["few tokens", "many tokens"])
def ctc_alone(request, tmp_path_factory):
    """A model that names tones, without an attention decoder: with fewer tokens than ESPnet's beam, and with more."""
    with pytest.MonkeyPatch.context() as patch:
        others = [f"other{n}" for n in range(request.param - 4)]
        patch.setitem(tones.MODEL, "token_list", [*tones.TOKENS[:-1], *others, tones.TOKENS[-1]])
        return tones.train(tmp_path_factory.mktemp("tones") / "model")


def random_model(folder, ctc_weight):
    torch.manual_seed(2)
    task, folder = write_config("asr", folder, model_conf={"ctc_weight": ctc_weight})
    model, _ = task.build_model_from_file(folder / "config.yaml")
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "config.yaml", folder / "model.pth"


@pytest.mark.parametrize("options", [{}, {"ctc_weight": 0.3, "beam_size": 3}, {"ctc_weight": 0.0}], ids=str)
def test_without_an_attention_decoder_ctc_is_heard(ctc_alone, tune, options, caplog):
    text, samples = tune
    assert Speech2Text(*ctc_alone, **options)(samples)[0][0] == text
    assert "the model has no attention decoder, it must be 1" in caplog.text


def test_without_ctc_the_decoder_is_heard(tmp_path, tune, caplog):
    model = random_model(tmp_path / "model", 0.0)
    asked = Speech2Text(*model, maxlenratio=0.2, beam_size=3, ctc_weight=0.0)(tune[1])
    assert not caplog.text.count("espnet_rand: ctc_weight")
    default = Speech2Text(*model, maxlenratio=0.2, beam_size=3)(tune[1])
    assert default[0][1] == asked[0][1] and default[0][3].score == asked[0][3].score
    assert "the model has no CTC, it must be 0" in caplog.text


def test_what_fits_is_left_as_it_is(ctc_alone, tmp_path, tune, caplog):
    both = random_model(tmp_path / "model", 0.5)
    assert Speech2Text(*both, beam_size=len(TOKENS) - 1).beam_search.weights["ctc"] == 0.5
    task, folder = write_config("lm", tmp_path / "lm", token_list=Speech2Text(*ctc_alone).asr_model.token_list)
    torch.save(task.build_model_from_file(folder / "config.yaml")[0].state_dict(), folder / "model.pth")
    caplog.clear()
    lm = {"lm_train_config": folder / "config.yaml", "lm_file": folder / "model.pth", "beam_size": 2}
    text, samples = tune
    chosen = Speech2Text(*ctc_alone, **lm, ctc_weight=0.9, lm_weight=0.1)
    assert chosen.beam_search.weights["ctc"] == 0.9 and "espnet_rand: ctc_weight" not in caplog.text
    # which the language model's favourites do not hide
    assert chosen(samples)[0][0] == Speech2Text(*ctc_alone, **lm, lm_weight=0.1)(samples)[0][0] == text


def test_searches_of_others_are_left_as_they_are():
    scorer = object()
    weights = {"decoder": 1.0}
    given = {"scorers": {"decoder": scorer, "ctc": scorer}, "weights": weights, "beam_size": 5, "vocab_size": 50}
    assert search._changes({**given, "pre_beam_score_key": "full"}) == ({}, [])
    given["scorers"] = {"decoder": scorer}
    assert search._changes({**given, "beam_size": 60})[0] == {"beam_size": 50}


def test_a_search_from_before_registration_is_refused(ctc_alone, monkeypatch, tune):
    original = search.BeamSearch.__init__.__wrapped__
    monkeypatch.setattr(search.BeamSearch, "__init__", original)
    with pytest.raises(OptionError, match="ctc_weight 0.5: the model has no attention decoder, it must be 1. Fix: "):
        LongForm(Speech2Text(*ctc_alone, beam_size=2))
    text, samples = tune
    assert LongForm(Speech2Text(*ctc_alone, beam_size=2, ctc_weight=1.0))(samples).text == text


def test_a_number_of_tokens_is_refused_where_the_search_takes_it_for_one(ctc_alone):
    with pytest.raises(OptionError, match="maxlenratio -40: ESPnet's search with streaming .* --maxlenratio 0"):
        LongForm(Speech2Text(*ctc_alone, streaming=True, maxlenratio=-40))
    LongForm(Speech2Text(*ctc_alone, streaming=True, maxlenratio=0.5))
