"""A model that imitates a teacher: its loss by hand, and what is left alone."""

import copy
import types

import pytest
import torch
from torch import nn

from espnet_rand import OptionError, QuantizerConfig, UserError, quantize
from espnet_rand.distillation import Distillation, distill, divergence

SPEECH = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([7, 5, 2])


class Encoder(nn.Linear):
    def forward(self, x, lengths):
        return super().forward(x), lengths, None


class Net(nn.Module):
    """As ESPnet's: an encoder, CTC's layer without lengths, and a decoder whose tokens have their own."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder(4, 6)
        self.ctc_lo = nn.Linear(6, 5)
        self.decoder = Encoder(6, 9)

    def forward(self, speech, lengths):
        h, *_ = self.encoder(speech, lengths)
        logits, (decoded, *_) = self.ctc_lo(h), self.decoder(h[:, :3], lengths.clamp(max=3) - 1)
        loss = logits.square().mean() + decoded.square().mean()
        return loss, {"loss": loss.detach()}, torch.tensor(3)


def make(**weights):
    torch.manual_seed(0)
    teacher = Net()
    model = copy.deepcopy(teacher)
    quantize(model, QuantizerConfig("absmax", bits=2, estimator="ste"))
    plain = copy.deepcopy(model)
    distill(model, teacher, Distillation(**weights), {"decoder": 0.75, "ctc_lo": 0.25}, ["encoder"])
    return model, plain, teacher


def by_hand(model, teacher):
    """The two terms, one sentence and frame after another."""
    outputs, above, below = 0.0, 0.0, 0.0
    for speech, length in zip(SPEECH, LENGTHS.tolist()):
        ours, theirs = (whole.encoder(speech[None], None)[0][0] for whole in (model, teacher))
        above += (ours - theirs)[:length].square().sum()
        below += theirs[:length].square().sum()
        for name, weight, count in (("ctc_lo", 0.25, length), ("decoder", 0.75, min(length, 3) - 1)):
            for a, b in zip(ours[:count], theirs[:count]):
                given, wanted = (
                    whole.decoder(h[None], None)[0][0] if name == "decoder" else whole.ctc_lo(h)
                    for whole, h in ((model, a), (teacher, b))
                )
                p = wanted.softmax(-1)
                outputs += weight * (p * (p.log() - given.log_softmax(-1))).sum() / len(SPEECH)
    return outputs, above / below


def test_the_loss_is_that_of_the_formulas_and_so_are_its_gradients():
    model, plain, teacher = make(labels=0.5, outputs=2.0, states=3.0)
    loss, statistics, weight = model(SPEECH, LENGTHS)
    outputs, states = by_hand(plain, teacher)
    assert (float(statistics["outputs"]), float(statistics["states"])) == pytest.approx(
        (float(outputs.detach()), float(states.detach())), rel=1e-4
    )
    labels = plain(SPEECH, LENGTHS)[0]
    wanted = 0.5 * labels + 2 * outputs + 3 * states
    torch.testing.assert_close(loss, wanted)
    assert statistics["loss"] == labels and weight == 3
    loss.backward()
    wanted.backward()
    for ours, theirs in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(p.grad is None for p in teacher.parameters())


def test_padding_does_not_count():
    model, *_ = make()
    padded = SPEECH.clone()
    for one, length in zip(padded, LENGTHS):
        one[length:] = 9.0
    torch.testing.assert_close(model(padded, LENGTHS)[0], model(SPEECH, LENGTHS)[0])


def test_a_batch_that_the_model_writes_into_is_the_teachers_as_it_was():
    """As GlobalMVN and SpecAugment do, where the features are the batch."""
    model, _, teacher = make()
    wanted = model(SPEECH, LENGTHS)[1]

    def in_place(self, speech, lengths):
        return Net.forward(self, speech.mul_(2), lengths.clamp_(max=7))

    for net in (model, teacher):
        net.forward = types.MethodType(in_place, net)
    loss, found, _ = model(SPEECH / 2, LENGTHS.clone())
    torch.testing.assert_close((found["outputs"], found["states"]), (wanted["outputs"], wanted["states"]))
    loss.backward()


def test_of_a_lattice_a_frame_counts_once():
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 2, 4, 5)
    lattice = [x[:, :, None].expand(-1, -1, 3, -1) for x in (ours, theirs)]
    torch.testing.assert_close(divergence(*lattice), divergence(ours, theirs))


def test_a_layer_that_runs_twice_counts_once_and_one_that_does_not_run_is_named():
    """As intermediate CTC does."""
    model, plain, teacher = make(states=0.0)

    def twice(self, speech, lengths):
        self.ctc_lo(self.encoder(speech, lengths)[0])
        return Net.forward(self, speech, lengths)

    wanted = model(SPEECH, LENGTHS)[1]["outputs"]
    for net in (model, teacher):
        net.forward = types.MethodType(twice, net)
    torch.testing.assert_close(model(SPEECH, LENGTHS)[1]["outputs"], wanted)
    del teacher.forward
    with pytest.raises(UserError, match="ctc_lo gave outputs of shapes .* in a forward"):
        model(SPEECH, LENGTHS)
    del model.forward
    torch.testing.assert_close(model(SPEECH, LENGTHS)[1]["outputs"], wanted)


class Tokens(nn.Linear):
    def forward(self, x, lens):
        return super().forward(x)


def test_what_lies_behind_the_lengths_that_a_module_is_given_does_not_count():
    model, teacher = (nn.ModuleDict({"out": Tokens(4, 5)}) for _ in range(2))
    model.forward = lambda x, lengths: (model.out(x, lengths).sum(), {}, 1)
    teacher.forward = lambda x, lengths: teacher.out(x, lengths)
    distill(model, teacher, Distillation(states=0), {"out": 1.0}, [], lengths="lens")
    padded = torch.where(torch.arange(7)[:, None] < LENGTHS[:, None, None], SPEECH, 9.0)
    first, second = (float(model(x, LENGTHS)[1]["outputs"]) for x in (SPEECH, padded))
    assert first == pytest.approx(second) != float(model(padded, LENGTHS + 1)[1]["outputs"])


def test_labels_of_weight_zero_may_have_no_finite_loss():
    model, *_ = make()
    model.forward = lambda speech, lengths: (Net.forward(model, speech, lengths)[0] * torch.inf, {}, 1)
    assert model(SPEECH, LENGTHS)[0].isfinite()


def test_evaluation_and_the_checkpoint_are_left_alone():
    model, plain, teacher = make()
    before = copy.deepcopy(teacher.state_dict())
    assert model.state_dict().keys() == plain.state_dict().keys()
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    for _ in range(30):
        loss = model(SPEECH, LENGTHS)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    plain.load_state_dict(model.state_dict())
    ours, theirs = model(SPEECH, LENGTHS), plain.eval()(SPEECH, LENGTHS)
    assert ours[0] == theirs[0] and ours[1].keys() == theirs[1].keys() == {"loss"}
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("weights", [{"outputs": -1}, {"states": "40"}, {"labels": True}])
def test_wrong_weights_are_named(weights):
    with pytest.raises(OptionError, match=str(next(iter(weights)))):
        Distillation(**weights)
