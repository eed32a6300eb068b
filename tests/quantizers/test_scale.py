import math

import pytest
import reference
import torch
from torch.autograd import gradcheck

from espnet_rand.options import OptionError
from espnet_rand.quantizers import AbsMax, Clip, Grid, LearnedScale, Rand

pytestmark = pytest.mark.usefixtures("device")

GRID = Grid(4)
Q = GRID.high
CODES = [(Grid(2), 1), (Grid(3), 3), (GRID, 7), (Grid(8), 127)]
RAND = [Rand(mode=1), Rand(mode=2), Rand(mode=2, p=1), Rand(mode=2, p=3.5, k=4), Rand(mode=2, p=100)]
RAND += [Rand(mode=2, c="mean"), Rand(mode=2, c="mean", p=3.5, k=4)]


@pytest.fixture
def w():
    torch.manual_seed(0)
    return torch.randn(3, 12, dtype=torch.float64, requires_grad=True)


def grown(value, *leaves):
    return torch.autograd.grad(value.sum(), leaves)


@pytest.mark.parametrize("scale", RAND, ids=str)
def test_rand_gradient_to_the_weights_against_finite_differences(scale, w):
    assert gradcheck(lambda x: scale.step(x, GRID, 12, None), w)


@pytest.mark.parametrize("p", [1, 2, 3.5, 8])
def test_mode_3_gradient_to_weights_and_c_against_finite_differences(p, w):
    scale = Rand(mode=3, p=p)
    log_c = torch.tensor([-0.3, 0.0, 0.4], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, c: scale.step(x, GRID, 12, c), (w, log_c))


def test_mode_1_gradient_is_the_sign_of_the_largest_weight(w):
    (grad,) = grown(Rand(mode=1).step(w, GRID, 12, None), w)
    largest = w.detach().abs() == w.detach().abs().amax(1, keepdim=True)
    torch.testing.assert_close(grad, torch.where(largest, w.detach().sign() / Q, 0))


@pytest.mark.parametrize("p, k", [(8, 2), (2, 1), (3.5, 4), (1, 3)])
def test_mode_2_value_and_gradient_are_the_closed_form(p, k, w):
    s = Rand(mode=2, p=p, k=k).step(w, GRID, 12, None)
    x = w.detach()
    norm = (x.abs() ** p).sum(1, keepdim=True) ** (1 / p)
    torch.testing.assert_close(s.detach(), k ** (-1 / p) * norm / Q)
    torch.testing.assert_close(grown(s, w)[0], k ** (-1 / p) / Q * x.sign() * (x.abs() / norm) ** (p - 1))


def test_mode_3_gradients_are_the_closed_form(w):
    c = torch.tensor([0.7, 0.9, 1.1], dtype=torch.float64)
    log_c = c.log().requires_grad_()
    x = w.detach()
    norm = (x**8).sum(1) ** (1 / 8)
    to_w, to_log_c = grown(Rand(mode=3).step(w, GRID, 12, log_c), w, log_c)
    torch.testing.assert_close(to_log_c, c * norm / Q)
    torch.testing.assert_close(to_w, c[:, None] / Q * x.sign() * (x.abs() / norm[:, None]) ** 7)


@pytest.mark.parametrize("scale", [AbsMax(), Clip()], ids=str)
def test_absmax_and_clip_give_the_weights_no_gradient(scale, w):
    assert not scale.step(w, GRID, 12, None).requires_grad


@pytest.mark.parametrize("grid, q", CODES)
@pytest.mark.parametrize("members", [12, [[12], [12], [5]]], ids=["even", "ragged"])
def test_lsc_gradient_is_scaled_by_the_root_of_members_and_codes(grid, q, members, w):
    s = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    members = torch.tensor(members) if isinstance(members, list) else members
    step = LearnedScale().step(w, grid, members, s)
    assert torch.equal(step.squeeze(1), s)
    d = torch.as_tensor(members, dtype=torch.float64).expand(3, 1).flatten() if torch.is_tensor(members) else 12.0
    expected = 1 / torch.sqrt(torch.as_tensor(d * q, dtype=torch.float64)).expand(3)
    torch.testing.assert_close(grown(step, s)[0], expected)


def test_a_negative_learned_step_means_its_magnitude(w):
    s = torch.tensor([-0.3, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    step = LearnedScale().step(w, GRID, 12, s)
    assert (step > 0).all() and grown(step, s)[0].sign().tolist() == [-1, 1, 1]


@pytest.mark.parametrize("scale", [s for s in reference.SCALES if s.learned], ids=str)
@pytest.mark.parametrize("grid, q", CODES)
def test_starting_values_of_learned_scales(scale, grid, q, w):
    expected = torch.stack([reference.initial(scale, row, q) for row in w])
    torch.testing.assert_close(scale.initial(w.detach(), grid, 12), expected)


@pytest.mark.parametrize("error", ["squared", "absolute"])
@pytest.mark.parametrize("grid, q", CODES[:3])
def test_clip_search_is_as_good_as_brute_force(error, grid, q, w):
    scale = Clip(a_min=0.2, candidates=33, error=error)
    heavy_tailed = w.detach() ** 3
    largest = heavy_tailed.abs().amax(1)
    found = scale.step(heavy_tailed, grid, 12, None).squeeze(1)
    expected = torch.stack([reference.step(scale, row, q) for row in heavy_tailed])
    for row, s, best in zip(heavy_tailed, found, expected):
        assert reference.error(scale, row, s, q) == pytest.approx(reference.error(scale, row, best, q))
    assert (found >= 0.2 * largest / q - 1e-12).all() and (found <= largest / q).all()
    assert (found < 0.99 * largest / q).any(), "the search must have clipped something"


@pytest.mark.parametrize("k", [1, 2, 5])
def test_mode_2_is_exact_where_k_weights_tie_for_the_largest(k):
    w = torch.zeros(1, 9)
    w[0, :k] = torch.tensor([3.0, -3.0, 3.0, -3.0, 3.0])[:k]
    torch.testing.assert_close(Rand(mode=2, k=k).step(w, GRID, 9, None), torch.tensor([[3.0 / Q]]))


def test_the_mean_spans_as_much_however_many_weights_share_a_scale():
    row = torch.randn(512)
    one, many = Rand(mode=2, c="mean"), row.repeat(40)[None]
    torch.testing.assert_close(one.step(many, GRID, 20480, None), one.step(row[None], GRID, 512, None))
    # and at 512 members it is the default's
    torch.testing.assert_close(one.step(row[None], GRID, 512, None), Rand(mode=2).step(row[None], GRID, 512, None))


def test_the_mean_of_a_short_group_is_of_its_own_members():
    full, short = torch.randn(5), torch.randn(3)
    w = torch.stack([full, torch.nn.functional.pad(short, (0, 2))])
    steps = Rand(mode=2, c="mean").step(w, GRID, torch.tensor([[5], [3]]), None)
    alone = [Rand(mode=2, c="mean").step(x[None], GRID, len(x), None)[0] for x in (full, short)]
    torch.testing.assert_close(steps, torch.stack(alone))


def test_mode_1_has_no_mean():
    with pytest.raises(OptionError, match="c: mean is of modes 2 and 3"):
        Rand(mode=1, c="mean")


def test_mode_1_shares_the_gradient_among_tied_weights():
    w = torch.tensor([[2.0, -2.0, 1.0]], requires_grad=True)
    (grad,) = grown(Rand(mode=1).step(w, Grid(2), 3, None), w)
    assert grad.tolist() == [[0.5, -0.5, 0.0]]


@pytest.mark.parametrize("scale", reference.SCALES, ids=str)
@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_steps_grow_with_the_weights_from_tiny_to_huge(scale, factor, w):
    x = w.detach().float()
    steps = []
    for weights in (x, x * factor):
        parameter = scale.initial(weights, GRID, 12) if scale.learned else None
        steps.append(scale.step(weights, GRID, 12, parameter))
    torch.testing.assert_close(steps[1] / factor, steps[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", reference.SCALES, ids=str)
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1e30])
def test_equal_zero_denormal_and_huge_weights_give_finite_steps_and_gradients(scale, value):
    w = torch.full((2, 4), value, requires_grad=True)
    parameter = scale.initial(w.detach(), GRID, 4).requires_grad_() if scale.learned else None
    step = scale.step(w, GRID, 4, parameter)
    assert step.isfinite().all() and (step >= 0).all()
    if step.requires_grad:
        leaves = [leaf for leaf in (w, parameter) if leaf is not None]
        for grad in torch.autograd.grad(step.sum(), leaves, allow_unused=True):
            assert grad is None or grad.isfinite().all()


def test_zeros_get_no_gradient_from_the_norm():
    w = torch.zeros(1, 4, requires_grad=True)
    for scale in RAND:
        assert not grown(scale.step(w, GRID, 4, None), w)[0].any()


def test_an_infinite_p_is_mode_1(w):
    assert torch.equal(Rand(mode=2, p=math.inf).step(w, GRID, 12, None), Rand(mode=1).step(w, GRID, 12, None))
