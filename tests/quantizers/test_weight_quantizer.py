import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_rand.quantizers import (
    GRIDS,
    ROTATIONS,
    AbsMax,
    Grid,
    LearnedScale,
    Noise,
    PerChannel,
    PerColumn,
    PerGroup,
    PerTensor,
    Precision,
    Rand,
    StraightThrough,
    WeightQuantizer,
)
from tests.devices import generator

pytestmark = pytest.mark.usefixtures("device")

BITS = range(2, 9)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

quantizers = st.builds(
    WeightQuantizer,
    st.sampled_from(reference.SCALES),
    st.sampled_from(reference.ESTIMATORS),
    st.sampled_from(reference.GRANULARITIES),
    st.builds(Precision, st.sampled_from(BITS)),
    st.just(0),
    st.sampled_from([*GRIDS.values()]),
    st.sampled_from([*ROTATIONS.values()]),
)
ordinary = st.floats(-4, 4, width=16)
extreme = st.sampled_from([0.0, -0.0, 1e-45, -3e-42, 1e-38, -1e-38, 1.0, 1e30, -1e30])


@st.composite
def weights(draw, numbers=ordinary, dtypes=DTYPES):
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    n = torch.Size(shape).numel()
    values = draw(st.lists(numbers, min_size=n, max_size=n))
    return torch.tensor(values, dtype=torch.float64).reshape(shape).to(draw(st.sampled_from(dtypes)))


def same_bits(a, b):
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.view(integer), b.view(integer))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerColumn(), PerGroup(4), PerGroup(5)], ids=str)
@pytest.mark.parametrize("scale", [AbsMax(), Rand(mode=2), LearnedScale(init="lsq+")], ids=str)
def test_rounding_is_that_of_a_loop_bit_for_bit(bits, granularity, scale):
    torch.manual_seed(bits)
    weight = torch.randn(3, 2, 6)
    quantizer = WeightQuantizer(scale, granularity=granularity, precision=Precision(bits))
    codes, (scales, _) = quantizer.encode(weight)
    expected_codes, expected_values = reference.rounded(weight, scales, bits, granularity)
    assert torch.equal(codes, expected_codes)
    assert torch.equal(quantizer(weight, training=False), expected_values)


def test_halves_round_to_even():
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 7.0]])
    codes, (scales, _) = WeightQuantizer(AbsMax()).encode(weight)
    assert scales.tolist() == [1.0] and codes.tolist() == [[0, 2, 2, 0, -2, -2, 7]]


@given(quantizers, weights())
def test_decoded_codes_equal_the_evaluation_forward(quantizer, weight):
    codes, steps = quantizer.encode(weight)
    scales = steps.scales.abs() if quantizer.grid.signed else steps.scales
    assert torch.equal(quantizer.decode(codes, steps, weight.dtype), quantizer(weight, training=False))
    q = Grid(quantizer.precision.bits).high
    assert codes.dtype == torch.int8 and codes.shape == weight.shape
    assert codes.min() >= -q - 1 and codes.max() <= q
    assert scales.shape == (quantizer.granularity.groups(weight),) and (scales > 0).all()


def test_decoded_zeros_have_the_sign_of_the_evaluation_forward():
    quantizer, weight = WeightQuantizer(AbsMax()), torch.tensor([[-0.01, 1.0]])
    assert same_bits(quantizer.decode(*quantizer.encode(weight)), quantizer(weight, training=False))


@given(quantizers, weights(), st.booleans())
def test_shape_and_dtype_are_those_of_the_weight(quantizer, weight, training):
    value = quantizer(weight, training=training)
    assert value.shape == weight.shape and value.dtype == weight.dtype


@given(quantizers, weights(extreme, [torch.float32, torch.float64, torch.bfloat16]), st.booleans())
def test_extreme_weights_give_finite_values_and_gradients(quantizer, weight, training):
    weight = weight.requires_grad_()
    parameter = quantizer.initial(weight)
    parameter = None if parameter is None else parameter.requires_grad_()
    value = quantizer(weight, parameter, training)
    leaves = [weight] if parameter is None else [weight, parameter]
    grads = torch.autograd.grad(value.sum(), leaves)
    assert all(x.isfinite().all() for x in (value, *leaves, *grads))
    scales = quantizer.encode(weight, parameter)[1].scales
    assert scales.isfinite().all() and (scales != 0).all()


@given(quantizers, weights(st.sampled_from([0.0, 6e-8, -1e-5, 1.0, 3e4, -3e4]), [torch.float16]))
def test_float16_weights_give_finite_values_and_gradients(quantizer, weight):
    weight = weight.requires_grad_()
    value = quantizer(weight)
    (grad,) = torch.autograd.grad(value.sum(), weight)
    assert value.isfinite().all() and grad.isfinite().all() and grad.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", reference.SCALES, ids=str)
def test_autocast_changes_nothing(scale, dtype):
    torch.manual_seed(0)
    weight = torch.randn(4, 9, requires_grad=True)
    quantizer = WeightQuantizer(scale, granularity=PerGroup(4))

    def run():
        value = quantizer(weight, generator=generator(1))
        codes, (scales, _) = quantizer.encode(weight)
        return value, *torch.autograd.grad(value.square().sum(), weight), codes, scales

    plain = run()
    with torch.autocast(weight.device.type, dtype=dtype):
        cast = run()
    assert all(torch.equal(a, b) for a, b in zip(plain, cast))


@pytest.mark.parametrize("estimator", reference.ESTIMATORS, ids=str)
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerColumn(), PerGroup(5)], ids=str)
@pytest.mark.parametrize("scale", reference.SCALES, ids=str)
def test_value_and_whole_gradient_are_those_of_plain_autograd(scale, granularity, estimator):
    """Through scale and estimator together, to the weight and to the learned scale."""
    torch.manual_seed(0)
    weight = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    grid = Grid(3)
    q = grid.high
    quantizer = WeightQuantizer(scale, estimator, granularity, Precision(3))
    parameter = quantizer.initial(weight)
    if parameter is not None:
        parameter = (parameter * 0.8).requires_grad_()  # so that some weights are clipped

    value = quantizer(weight, parameter, generator=generator(5))
    u = torch.zeros_like(granularity.split(weight))  # the same noise: of zeros, with steps of one
    if isinstance(estimator, Noise):
        u = estimator(u, torch.ones(len(u), 1, dtype=u.dtype), grid, generator(5))
    u = granularity.join(u, weight.shape).flatten()
    expected = torch.zeros_like(weight.flatten())
    for n, group in enumerate(reference.groups(weight.shape, granularity)):
        w = weight.flatten()[group]
        s = reference.step(scale, w, q, None if parameter is None else parameter[n])
        if isinstance(estimator, StraightThrough):
            expected = expected.index_put((torch.tensor(group),), reference.straight_through(w, s, q))
        else:
            expected = expected.index_put((torch.tensor(group),), reference.add_noise(w, s, q, u[group]))
    expected = expected.view_as(weight)
    torch.testing.assert_close(value, expected)

    loss_weights = torch.randn_like(weight)
    leaves = [weight] if parameter is None else [weight, parameter]
    found, wanted = (torch.autograd.grad((x * loss_weights).sum(), leaves) for x in (value, expected))
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scale", reference.SCALES, ids=str)
def test_noise_spans_the_step_of_the_scale(scale):
    torch.manual_seed(0)
    weight = 0.1 * torch.randn(2, 4000).clamp(-1, 1)
    quantizer = WeightQuantizer(scale)
    _, (scales, _) = quantizer.encode(weight)
    bound = 7.5 * scales[:, None]
    u = (quantizer(weight) - torch.clamp(weight, -bound, bound)) / scales[:, None]
    assert (u.abs() <= 0.5001).all() and (u.amax(1) > 0.49).all() and (u.amin(1) < -0.49).all()


def test_evaluation_gradient_is_straight_through():
    weight = torch.tensor([[0.2, -1.0, 0.6]], requires_grad=True)
    WeightQuantizer(AbsMax())(weight, training=False).sum().backward()
    assert torch.equal(weight.grad, torch.ones(1, 3))


def test_all_zeros_stay_zeros():
    for scale in reference.SCALES:
        for estimator in reference.ESTIMATORS:
            value = WeightQuantizer(scale, estimator)(torch.zeros(2, 3))
            assert value.abs().max() < 1e-37
