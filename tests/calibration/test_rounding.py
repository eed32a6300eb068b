import pytest
import torch

from espnet_rand.calibration.rounding import compensated
from espnet_rand.quantizers import Grid

pytestmark = pytest.mark.usefixtures("device")

GRID = Grid(4)
Q = GRID.high


def inputs(n, count=400, seed=0):
    """Correlated ones, of different powers."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, n, generator=generator) @ torch.randn(n, n, generator=generator)
    return mixed * torch.rand(n, generator=generator)


def naive(w, s, q, h, damping):
    """Optimal Brain Quantization in a fixed order: GPTQ, Equation 2 and 3, the inverse made anew for what is left."""
    h = h.double() + damping * h.diagonal().double().mean() * torch.eye(len(h), dtype=torch.float64)
    order = h.diagonal().argsort(descending=True).tolist()
    w, codes = w.double().clone(), torch.zeros_like(w, dtype=torch.float64)
    for position, i in enumerate(order):
        rest = order[position:]
        inverse = torch.linalg.inv(h[rest][:, rest])
        codes[:, i] = (w[:, i] / s[:, i]).round().clamp(-q - 1, q)
        error = (w[:, i] - codes[:, i] * s[:, i]) / inverse[0, 0]
        w[:, rest] -= error[:, None] * inverse[0]
    return codes


@pytest.mark.parametrize("n", [5, 64, 150])
def test_codes_are_those_of_the_definition(n):
    x = inputs(n).double()
    h = x.T @ x / len(x)
    w = torch.randn(9, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s = (w.abs().amax(1, keepdim=True) / Q).expand_as(w)
    assert torch.equal(compensated(w, s, GRID, h), naive(w, s, Q, h, 0.01))


def test_one_input_makes_up_for_another_that_is_like_it():
    h = torch.ones(2, 2, dtype=torch.float64)
    w = torch.tensor([[0.4, 0.4]])
    assert compensated(w, torch.ones(1, 2), GRID, h, damping=1e-6).sum() == 1  # to nearest it is 0, and 0.8 is wanted


def test_inputs_that_have_nothing_in_common_or_never_were_are_rounded_to_nearest():
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 5
    h = torch.diag(torch.tensor([1.0, 0.0, 3.0, 1e-20, 5.0, 2.0]))
    codes = compensated(w, torch.ones(4, 6), Grid(3), h)
    assert torch.equal(codes, w.round().clamp(-4, 3))


def test_outputs_err_less():
    x = inputs(100)
    w = torch.randn(30, 100, generator=torch.Generator().manual_seed(2))
    s = (w.abs().amax(1, keepdim=True) / Q).expand_as(w)
    codes = compensated(w, s, GRID, x.T @ x / len(x))
    nearest = (w / s).round()
    errors = [(x @ (c * s - w).T).square().mean() for c in (codes, nearest)]
    assert errors[0] < errors[1] / 2
