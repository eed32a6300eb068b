"""A grid of one's own, of half steps: one class and one line are all it takes, from training to the packed file."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from espnet_rand import QuantizerConfig, quantize
from espnet_rand.calibration import calibrate
from espnet_rand.packing import load_into, pack_model, read_packed, write_packed
from espnet_rand.quantizers import GRIDS, AbsMax, Grid, Noise, StraightThrough, WeightQuantizer
from tests.devices import generator

pytestmark = pytest.mark.usefixtures("device")


class HalfSteps(Grid):
    """Code c stands for c + 1/2 steps."""

    rounding_bounds = noise_bounds = property(lambda self: (self.low, self.high + 1.0))

    def step(self, span):
        return span / (self.high + 0.5)

    def span(self, step):
        return step * (self.high + 0.5)

    def codes_(self, x):
        return x.floor_().clamp_(self.low, self.high)

    def levels(self, codes):
        return codes + 0.5


@pytest.fixture
def half_steps(monkeypatch):
    """A configuration takes the grid, as its option will."""
    monkeypatch.setitem(GRIDS, "half", HalfSteps)
    original = QuantizerConfig.weight_quantizer
    monkeypatch.setattr(
        QuantizerConfig, "weight_quantizer", lambda self, keys: replace(original(self, keys), grid=HalfSteps)
    )


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_codes_are_from_minus_q_minus_1_to_q(bits):
    grid, q = Grid(bits), 2 ** (bits - 1) - 1
    x = torch.tensor([[-1e9, -q - 1.4, -q, -0.4, 0.5, 1.5, q + 0.4, 1e9]])
    assert grid.round(3 * x, torch.tensor([[3.0]])).tolist() == [[-q - 1, -q - 1, -q, 0, 0, min(2, q), q, q]]
    assert grid.step(q) == 1 and grid.span(grid.step(5.0)) == pytest.approx(5)


def test_half_steps_round_to_them():
    quantizer = WeightQuantizer(AbsMax(), grid=HalfSteps)
    weight = torch.tensor([[7.5, -7.5, 0.1, -0.1, 1.2]])
    codes, scales = quantizer.encode(weight)
    assert scales.tolist() == [1] and codes.tolist() == [[7, -8, 0, -1, 1]]
    assert quantizer.decode(codes, scales).tolist() == [[7.5, -7.5, 0.5, -0.5, 1.5]]
    assert torch.equal(quantizer(weight, training=False), quantizer.decode(codes, scales))


def test_half_steps_have_their_gradients():
    w, s = (3 * torch.randn(4, 50, dtype=torch.float64)).requires_grad_(), torch.tensor([[0.1], [0.3], [0.7], [2.0]])
    s, grid = s.double().requires_grad_(), HalfSteps(3)
    assert gradcheck(lambda w, s: Noise()(w, s, grid, generator(1)), (w, s))
    x = w / s
    inside = (x > -4) & (x < 4)
    level = (x.floor() + 0.5).clamp(-3.5, 3.5)
    expected = s * torch.where(inside, x + (level - x).detach(), level.detach())
    value = StraightThrough()(w, s, grid)
    torch.testing.assert_close(value, expected)
    grads = zip(*(torch.autograd.grad(v.square().sum(), (w, s), retain_graph=True) for v in (value, expected)))
    assert all(torch.allclose(*pair) for pair in grads)


def test_half_steps_go_from_training_through_calibration_into_a_file(half_steps, tmp_path):
    torch.manual_seed(0)
    x, stock = torch.randn(200, 16) * torch.rand(16).mul(3), nn.Linear(16, 8)
    wanted, model = stock(x), nn.Linear(16, 8)
    model.load_state_dict(stock.state_dict())
    report = quantize(model, QuantizerConfig("rand", mode=3, init="clip", bits=2, estimator="ste"))
    assert report.quantized[0].quantizer.endswith(" half")
    model.train()(x).sum().backward()
    assert "weight__rand3p8_channel_w2half_quantizer_scale" in model.state_dict()
    model.eval()
    before = (model(x) - wanted).square().mean()
    calibrate(model, lambda: model(x))
    assert (model(x) - wanted).square().mean() < before
    write_packed(tmp_path / "w2", pack_model(model))
    packed = read_packed(tmp_path / "w2")
    assert packed.weights["weight"].grid == HalfSteps(2)
    decoded = nn.Linear(16, 8)
    load_into(decoded, packed)
    torch.testing.assert_close(decoded.eval()(x), model(x), msg="no kernel may take its codes for multiples of a step")


def test_a_file_with_an_unknown_grid_is_refused(half_steps, tmp_path, monkeypatch):
    model = nn.Linear(4, 4)
    quantize(model, QuantizerConfig("absmax"))
    write_packed(tmp_path / "w4", pack_model(model))
    monkeypatch.delitem(GRIDS, "half")
    with pytest.raises(ValueError, match="unknown grid 'half': update espnet_rand"):
        read_packed(tmp_path / "w4")
