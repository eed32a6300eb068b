import pytest
import reference
import torch
from torch.autograd import gradcheck

from espnet_rand.quantizers import Grid, Noise, StraightThrough
from tests.devices import generator

pytestmark = pytest.mark.usefixtures("device")

NOISES = [Noise("uniform"), Noise("normal")]


@pytest.fixture
def ws():
    """Weights inside and outside the range of 3 codes and of 15, and step sizes, in float64."""
    torch.manual_seed(0)
    w = 3 * torch.randn(4, 50, dtype=torch.float64)
    s = torch.tensor([[0.1], [0.3], [0.7], [2.0]], dtype=torch.float64)
    return w.requires_grad_(), s.requires_grad_()


@pytest.mark.parametrize("grid, q", [(Grid(2), 1), (Grid(4), 7)])
def test_straight_through_gradients_are_the_formula(grid, q, ws):
    w, s = ws
    grad = torch.randn_like(w)
    to_w, to_s = torch.autograd.grad(StraightThrough()(w, s, grid, None), ws, grad)
    for row in range(4):
        expected_s = 0.0
        for i in range(50):
            x, g = (w[row, i] / s[row, 0]).item(), grad[row, i].item()
            code = round(x)
            if -q - 1 <= code <= q:
                slope, expected_s = g, expected_s + g * (code - x)
            else:
                slope, expected_s = 0.0, expected_s + g * (q if code > q else -q - 1)
            assert to_w[row, i].item() == slope
        assert to_s[row, 0].item() == pytest.approx(expected_s)


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("grid, q", [(Grid(2), 1), (Grid(4), 7)])
def test_noise_gradients_against_finite_differences(noise, grid, q, ws):
    assert gradcheck(lambda w, s: noise(w, s, grid, generator(1)), ws)


@pytest.mark.parametrize("grid, q", [(Grid(2), 1), (Grid(4), 7)])
def test_noise_clips_half_a_step_beyond_the_range(grid, q, ws):
    w, s = (x.detach() for x in ws)
    moved = Noise()(w, s, grid, None)
    bound = (q + 0.5) * s
    clipped = torch.minimum(torch.maximum(w, -bound), bound)
    assert (clipped != w).any() and ((moved - clipped).abs() <= s / 2 * (1 + 1e-9)).all()


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_has_mean_zero_and_the_variance_of_rounding(noise):
    n, s = 200_000, torch.tensor([[0.25], [4.0]])
    u = (noise(torch.zeros(2, n), s, Grid(4), generator(0)) / s).double()
    assert u.mean(1).abs().max() < 5 * (1 / 12 / n) ** 0.5
    fourth = 1 / 80 if noise.noise == "uniform" else 3 / 144
    spread = ((fourth - 1 / 144) / n) ** 0.5
    assert (u.var(1) - 1 / 12).abs().max() < 5 * spread
    if noise.noise == "uniform":
        assert u.abs().max() <= 0.5 and u.min() < -0.499 and u.max() > 0.499
    else:
        assert u.abs().max() > 1, "normal noise has tails"
        inside = (u.abs() < 12**-0.5).double().mean().item()
        assert inside == pytest.approx(0.6827, abs=5 * (0.25 / n) ** 0.5)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_is_fresh_for_every_weight_and_forward(noise):
    n, source = 100_000, generator(0)
    rows = [noise(torch.zeros(2, n), torch.ones(2, 1), Grid(4), source) for _ in range(2)]
    correlation = torch.corrcoef(torch.cat([*rows, rows[0].roll(1, dims=1)])).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / n**0.5


def test_noise_comes_from_the_generator_alone():
    w, s = torch.zeros(1, 8), torch.ones(1, 1)
    before = torch.get_rng_state()
    first, second = (Noise()(w, s, Grid(4), generator(3)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), before)


def test_noise_adds_the_curvature_of_the_loss():
    """E[L(w + s u)] = L(w) + s^2/24 tr(H), d/ds = s/12 tr(H), of a quadratic loss."""
    torch.manual_seed(0)
    n, d, s = 100_000, 6, 0.5
    root = torch.randn(d, d, dtype=torch.float64)
    hessian = root @ root.T
    w = torch.randn(d, dtype=torch.float64)
    steps = torch.full((n, 1), s, dtype=torch.float64, requires_grad=True)
    noisy = Noise()(w.expand(n, d), steps, Grid(8), None)
    losses = ((noisy @ hessian) * noisy).sum(1) / 2
    (slopes,) = torch.autograd.grad(losses.sum(), steps)
    trace = hessian.trace()
    for samples, expected in (
        (losses, w @ hessian @ w / 2 + s**2 / 24 * trace),
        (slopes, s / 12 * trace),
    ):
        error = samples.std() / n**0.5
        assert abs(samples.mean() - expected) < 4 * error
        assert error < 0.05 * s / 12 * trace, "too few samples to tell"


def test_straight_through_agrees_with_detach(ws):
    w, s = ws
    expected = reference.straight_through(w, s, 7)
    assert torch.equal(StraightThrough()(w, s, Grid(4), None), expected)
