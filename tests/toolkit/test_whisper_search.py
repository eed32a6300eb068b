"""In a search Whisper's decoder computes each token and the recording once. It says the same without that."""

import threading
import weakref
from types import MethodType

import pytest
import torch

import espnet_rand

espnet_rand.register()
from espnet2.bin.asr_inference import Speech2Text  # noqa: E402
from espnet2.tasks.asr import ASRTask  # noqa: E402

from espnet_rand.packing import pack_model, write_packed  # noqa: E402
from espnet_rand.toolkit.hooks import whisper_search  # noqa: E402
from espnet_rand.toolkit.search import BeamSearch  # noqa: E402

from .tiny_whisper import DIMS, noise, tiny, write  # noqa: E402, F401

ROUNDED = {"quantizer": "absmax", "quantizer_conf": {"bits": 4, "granularity": "channel"}}
RECORDINGS = [samples.numpy() for samples in noise(1.0, 1.0)[0]]


@pytest.fixture(autouse=True)
def two_layers(monkeypatch):
    monkeypatch.setitem(DIMS, "n_text_layer", 2)


def made(folder, model_file=None, beam_size=3, **more):
    """Speech2Text of a tiny Whisper that says 9 tokens."""
    options = {"ctc_weight": 0.0, "maxlenratio": -9, "nbest": beam_size}
    speech2text = Speech2Text(write(folder, trailing_silence=1, **more), model_file, beam_size=beam_size, **options)
    speech2text.beam_search.eos = -1  # no token
    return speech2text


def attentions(speech2text):
    return [block.cross_attn for block in speech2text.asr_model.decoder.decoders.blocks]


def as_espnet(speech2text):
    """Let a Speech2Text compute all anew in each step."""
    decoder = speech2text.asr_model.decoder
    for name in ("score", "batch_score"):
        setattr(decoder, name, MethodType(getattr(type(decoder), name).__wrapped__, decoder))
    return speech2text


def watch(attentions):
    """A list that gets weak references to all keys that are computed from now on."""
    found = []
    for attention in attentions:
        attention.key.register_forward_hook(lambda layer, inputs, output: found.append(weakref.ref(output)))
    return found


def said(found):
    """The tokens and scores of hypotheses."""
    hypotheses = [each[3] if type(each) is tuple else each for each in found]
    return [h.yseq.tolist() for h in hypotheses], [float(h.score) for h in hypotheses]


def check_same(found, expected, within=1e-5):
    tokens, scores = said(found)
    assert tokens == said(expected)[0] and len(set(tokens[0])) > 2
    assert scores == pytest.approx(said(expected)[1], abs=within)


@pytest.mark.parametrize("kind", ["float", "rounded", "packed"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_each_recording_and_token_is_computed_once_and_for_what_it_is(kind, beam_size, tmp_path):
    more, model_file = {} if kind == "float" else ROUNDED, None
    if kind == "packed":
        model_file = tmp_path / "packed.safetensors"
        write_packed(model_file, pack_model(ASRTask.build_model_from_file(write(tmp_path, **more))[0]))
    plain = as_espnet(made(tmp_path, model_file, beam_size, **more))
    speech2text = made(tmp_path, model_file, beam_size, **more)
    keys = watch(attentions(speech2text))
    tokens = []
    for block in speech2text.asr_model.decoder.decoders.blocks:
        block.attn.key.register_forward_hook(lambda layer, inputs, output: tokens.append(output.size(1)))
    first, second = RECORDINGS
    for count, samples in enumerate((first, second, first), 1):
        # packed layers round what they get to 8 bits, in steps of the largest value of a call
        found = speech2text(samples)
        check_same(found, plain(samples), within=1e-2 if kind == "packed" else 1e-5)
        assert not any(torch.is_tensor(state) for *_, hypothesis in found for state in hypothesis.states["decoder"])
        assert len(keys) == count * len(attentions(speech2text)) and {*tokens} == {1}
        assert not any(key() is not None for key in keys)  # nothing is kept
    assert said(plain(first)) != said(plain(second))


def test_hypotheses_that_are_scored_one_by_one(tmp_path):
    speech2text, plain = made(tmp_path), as_espnet(made(tmp_path))
    for one in (speech2text, plain):
        one.beam_search.__class__ = BeamSearch  # as ESPnet has it beside an n-gram model
    check_same(speech2text(RECORDINGS[0]), plain(RECORDINGS[0]))


def test_what_is_heard_block_by_block(tmp_path):
    """A new block changes all that is heard, and all tokens with it; one search goes on with another's hypotheses."""
    in_online = pytest.importorskip("espnet2.legacy.nets.batch_beam_search_online")  # elsewhere in ESPnet 202511
    heard, found = torch.randn(1500, 8, generator=torch.Generator().manual_seed(1)), []
    blocks = {"block_size": 400, "hop_size": 300, "look_ahead": 100}
    for speech2text in (made(tmp_path), as_espnet(made(tmp_path))):
        search = speech2text.beam_search
        options = {name: getattr(search, name) for name in ("scorers", "weights", "beam_size", "sos", "eos")}
        online = in_online.BatchBeamSearchOnline(**options, vocab_size=search.n_vocab, **blocks)
        with torch.no_grad():
            parts = [online(heard[start : start + 500], 0.012, is_final=start == 1000) for start in (0, 500, 1000)]
        found.append(parts[-1])
    check_same(*found)


@pytest.mark.parametrize("kind", ["block", "attention", "before", "step"])
def test_a_decoder_with_a_computation_of_its_own_is_asked(kind, tmp_path):
    speech2text = made(tmp_path)
    decoder = speech2text.asr_model.decoder
    block = decoder.decoders.blocks[0]
    if kind == "block":
        block.register_forward_hook(lambda block, inputs, output: -output)
    elif kind == "attention":
        block.attn.register_forward_hook(lambda attention, inputs, output: (-output[0], None))
    elif kind == "before":
        block.register_forward_pre_hook(lambda block, inputs: (-inputs[0], *inputs[1:]))
    else:
        decoder.__class__ = type("Own", (type(decoder),), {"forward_one_step": backwards})
    check_same(speech2text(RECORDINGS[0]), as_espnet(speech2text)(RECORDINGS[0]))


def backwards(self, tgt, *args, **kwargs):
    return super(type(self), self).forward_one_step(tgt.flip(1), *args, **kwargs)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_search_keeps_no_more_than_it_goes_on_from(one_by_one, tmp_path, monkeypatch):
    speech2text, kept, add = made(tmp_path), [], whisper_search._Kept.add
    if one_by_one:
        speech2text.beam_search.__class__ = BeamSearch
    monkeypatch.setattr(
        whisper_search._Kept, "add", lambda self, told: (add(self, told), kept.append(len(self.steps)))[0]
    )
    speech2text(RECORDINGS[0])
    assert max(kept) == (6 if one_by_one else 2)  # of 3 hypotheses the step before, and this one


def test_memory_that_is_written_over_is_heard_again(tmp_path):
    speech2text = made(tmp_path)
    search = speech2text.beam_search
    generator = torch.Generator().manual_seed(0)
    heard, other = torch.randn(2, 20, 8, generator=generator)
    with torch.no_grad():
        before = search(heard, -9)
        heard.copy_(other)
        after = search(heard, -9)
        as_espnet(speech2text)
        check_same(after, search(other, -9))
    assert said(before) != said(after)


def test_threads_hear_their_own_recordings(tmp_path):
    speech2text = made(tmp_path)
    meet, found = threading.Barrier(2), {}
    attentions(speech2text)[0].register_forward_pre_hook(lambda *_: (meet.wait(60), None)[1])  # so that steps alternate

    def hear(number):
        found[number] = said(speech2text(RECORDINGS[number]))

    threads = [threading.Thread(target=hear, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plain = as_espnet(made(tmp_path))
    for number, samples in enumerate(RECORDINGS):
        assert found[number][0] == said(plain(samples))[0]


def test_batches_gradients_and_training_go_on_as_in_espnet(tmp_path):
    speech2text, plain = made(tmp_path), as_espnet(made(tmp_path))
    heard = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = [one.beam_search(heard, -9, x_lengths=torch.tensor([20, 20])) for one in (speech2text, plain)]
    for found, expected in zip(*pairs):
        check_same(found, expected)
    keys = watch(attentions(speech2text))
    with torch.enable_grad():
        heard.requires_grad_()
        speech2text.beam_search(heard[0], -9)[0].score.backward()
    assert len(keys) == 2 * 9 and heard.grad[0].abs().sum() > 0
    speech2text.asr_model.train()
    with torch.no_grad():
        speech2text.beam_search(heard[0], -9)
    assert len(keys) == 2 * 18
