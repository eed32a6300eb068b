"""Grids and rotations: what codes stand for, and their way from training through calibration into a packed file."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from espnet_rand import QuantizationError, QuantizerConfig, quantize
from espnet_rand.allocation import curvature
from espnet_rand.calibration import calibrate
from espnet_rand.layers import quantized_weights
from espnet_rand.packing import load_into, pack_model, read_packed, write_packed
from espnet_rand.quantizers import (
    GRIDS,
    ROTATIONS,
    AbsMax,
    Clip,
    Grid,
    LearnedScale,
    Noise,
    PerGroup,
    Precision,
    Rand,
    StraightThrough,
    WeightQuantizer,
)
from tests.devices import generator

pytestmark = pytest.mark.usefixtures("device")
BITS = range(2, 9)
grids = pytest.mark.parametrize("name", GRIDS)


def levels(grid, s, z=0):
    """Every number that a group can have, from the definition of each grid."""
    codes = torch.arange(-(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1), dtype=s.dtype)
    return s * (codes + (0.5 if grid == GRIDS["half_step"](grid.bits) else 0) - z)


@pytest.mark.parametrize("bits", BITS)
def test_symmetric_codes_are_from_minus_q_minus_1_to_q(bits):
    grid, q = Grid(bits), 2 ** (bits - 1) - 1
    x = torch.tensor([[-1e9, -q - 1.4, -q, -0.4, 0.5, 1.5, q + 0.4, 1e9]])
    assert grid.round(3 * x, torch.tensor([[3.0]])).tolist() == [[-q - 1, -q - 1, -q, 0, 0, min(2, q), q, q]]
    assert grid.step(q) == 1 and grid.span(grid.step(5.0)) == pytest.approx(5)


@pytest.mark.parametrize(
    "name, weight, step, zero, codes, values",
    [
        ("half_step", [7.5, -7.5, 0.1, -0.1, 1.2], 1, None, [7, -8, 0, -1, 1], [7.5, -7.5, 0.5, -0.5, 1.5]),
        ("signed", [-8, 7, 0.4, 7.9], 1, None, [-8, 7, 0, 7], [-8, 7, 0, 7]),
        ("signed", [8, -7, 0.4, -7.9], -1, None, [-8, 7, 0, 7], [8, -7, 0, -7]),
        ("asymmetric", [-3, 12, 0.4, 1.6], 1, -5, [-8, 7, -5, -3], [-3, 12, 0, 2]),
        ("asymmetric", [15, 3.2, 0, 1], 1, -8, [7, -5, -8, -7], [15, 3, 0, 1]),
        ("asymmetric", [-15, -3.2, 0, -1], 1, 7, [-8, 4, 7, 6], [-15, -3, 0, -1]),
    ],
)
def test_largest_weights_fall_on_outermost_codes(name, weight, step, zero, codes, values):
    quantizer, weight = WeightQuantizer(AbsMax(), grid=GRIDS[name]), torch.tensor([weight], dtype=torch.float32)
    found, steps = quantizer.encode(weight)
    assert steps.scales.tolist() == [step] and found.tolist() == [codes]
    assert (steps.zeros is None) if zero is None else steps.zeros.tolist() == [zero]
    assert quantizer.decode(found, steps).tolist() == [values]
    assert torch.equal(quantizer(weight, training=False), quantizer.decode(found, steps))


@grids
@pytest.mark.parametrize(
    "scale", [AbsMax(), Rand(mode=2), Rand(mode=3, init="clip"), LearnedScale(init="lsq+"), Clip()], ids=str
)
def test_weights_are_rounded_to_the_nearest_number_of_their_group(name, scale):
    torch.manual_seed(0)
    weight = torch.randn(5, 20) + torch.tensor([0, 0.3, -1, 9, 0])[:, None]
    weight[4] = 0
    for bits in BITS:
        quantizer = WeightQuantizer(scale, granularity=PerGroup(8), precision=Precision(bits), grid=GRIDS[name])
        codes, (scales, zeros) = quantizer.encode(weight)
        w, value = (quantizer.granularity.split(x) for x in (weight, quantizer(weight, training=False)))
        for i, s in enumerate(scales):
            numbers = levels(GRIDS[name](bits), s, 0 if zeros is None else zeros[i])
            distances = (w[i][:, None] - numbers).abs()
            assert ((w[i] - value[i]).abs() <= distances.amin(1) * (1 + 1e-4) + 1e-6).all()
        if zeros is not None:
            assert zeros.eq(zeros.round()).all() and zeros.min() >= GRIDS[name](bits).low


@grids
def test_clip_search_is_no_worse_than_the_largest_weight(name):
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    for bits in (2, 3, 4):
        largest, searched = (
            (WeightQuantizer(scale, precision=Precision(bits), grid=GRIDS[name])(weight, training=False) - weight)
            .square()
            .sum(1)
            for scale in (AbsMax(), Clip())
        )
        assert (searched <= largest * 1.0001).all() and (searched < largest * 0.9).any()


@grids
def test_noise_and_rounding_have_their_gradients(name):
    torch.manual_seed(0)
    w = (3 * torch.randn(4, 50, dtype=torch.float64)).requires_grad_()
    s = torch.tensor([[0.1], [0.3], [0.7], [2.0]]).double()
    s = (s * torch.tensor([[1], [-1], [1], [-1]]) if GRIDS[name].signed else s).requires_grad_()
    z = torch.tensor([[-4.0], [1], [3], [0]]).double().requires_grad_() if GRIDS[name].shifted else None
    grid, leaves = GRIDS[name](3), (w, s) if z is None else (w, s, z)

    def noisy(w, s, z=None):
        return Noise()(w, s, grid, generator(1), z)

    assert gradcheck(noisy, leaves)
    x = w / s + (0 if z is None else z)
    low, high = grid.rounding_bounds
    level = x.floor() + 0.5 if name == "half_step" else x.round()
    ends = grid.levels(torch.tensor([grid.low, grid.high]).double())
    expected = torch.where((x > low) & (x < high), x + (level - x).detach(), level.detach().clamp(*ends.tolist()))
    expected = s * (expected - (0 if z is None else z))
    value = StraightThrough()(w, s, grid, z=z)
    torch.testing.assert_close(value, expected)
    grads = zip(*(torch.autograd.grad(v.square().sum(), leaves, retain_graph=True) for v in (value, expected)))
    assert all(torch.allclose(*pair) for pair in grads)


@grids
@pytest.mark.parametrize(
    "scale", [Rand(mode=1), Rand(mode=2), Rand(mode=2, c="mean"), Rand(mode=3, init="norm")], ids=str
)
def test_steps_go_down_with_the_outliers_of_each_side_as_finite_differences_say(name, scale):
    torch.manual_seed(0)
    w = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    quantizer = WeightQuantizer(scale, grid=GRIDS[name])
    parameter = quantizer.initial(w)
    leaves = (w,) if parameter is None else (w, parameter.requires_grad_())

    def step(*leaves):
        grid = GRIDS[name](4)
        rows = scale.step(grid.rows(leaves[0]), grid, 12, leaves[1] if len(leaves) > 1 else None)
        return grid.place(rows.view(-1, grid.sides)).scales

    assert gradcheck(step, leaves)
    if GRIDS[name].shifted:  # both ends pull
        slope = torch.autograd.grad(step(*leaves).sum(), w)[0]
        at = slope.gather(1, w.argmax(1, True)), slope.gather(1, w.argmin(1, True))
        assert (at[0] > 0).all() and (at[1] < 0).all()


@grids
@pytest.mark.parametrize("scale", [Rand(mode=2), Rand(mode=3), LearnedScale(init="lsq+")], ids=str)
@pytest.mark.parametrize("estimator", [Noise(), StraightThrough()], ids=str)
def test_groups_without_weights_have_finite_gradients(name, scale, estimator):
    for bits in BITS:
        weight = torch.tensor([[0.0] * 4, [1, -2, 3, 0]], requires_grad=True)
        quantizer = WeightQuantizer(scale, estimator, precision=Precision(bits), grid=GRIDS[name])
        parameter = quantizer.initial(weight)
        leaves = [weight] if parameter is None else [weight, parameter.requires_grad_()]
        quantizer(weight, parameter).square().sum().backward()
        assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("name", ["signed", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
def test_steps_that_are_learned_start_as_well_as_those_of_the_symmetric_grid(name, bits):
    torch.manual_seed(0)
    weight = torch.randn(16, 512)
    quantizers = [
        WeightQuantizer(LearnedScale(init="lsq+"), precision=Precision(bits), grid=GRIDS[n])
        for n in ("symmetric", name)
    ]
    symmetric, other = ((quantizer(weight, training=False) - weight).square().sum() for quantizer in quantizers)
    assert other <= symmetric


@grids
@pytest.mark.parametrize("scale", [Rand(mode=3, init="norm"), LearnedScale(init="lsq+")], ids=str)
@pytest.mark.parametrize("shift", [-5.0, -1, 0, 1, 5])
def test_parameters_give_the_steps_that_they_are_made_for(name, scale, shift):
    """Also where one side has no weights, or no code."""
    torch.manual_seed(0)
    weight = torch.randn(32, 24) + shift
    quantizer = WeightQuantizer(scale, precision=Precision(3), grid=GRIDS[name])
    steps = quantizer.searched(weight, torch.rand(32, 24).pow(4), 3)
    w, (s, z) = weight, (None if one is None else one[:, None] for one in steps)
    wanted = GRIDS[name](3).nearest(w, s, z)
    found = quantizer(weight, quantizer.parameter(weight, steps, 3), training=False)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 96), (3, 12, 5), (2, 7), (4, 1, 3), (5,)])
def test_a_rotation_keeps_products_and_undoes_itself(shape):
    torch.manual_seed(0)
    weight, turn = torch.randn(shape, dtype=torch.float64), ROTATIONS["hadamard"]
    torch.testing.assert_close(turn.back(turn(weight)), weight)
    if len(shape) > 1:
        x = torch.randn(2, *shape[1:], dtype=torch.float64)
        torch.testing.assert_close(turn(weight).flatten(1) @ turn(x).flatten(1).T, weight.flatten(1) @ x.flatten(1).T)
        assert turn(torch.eye(shape[1], dtype=torch.float64)[:1]).count_nonzero() == shape[1] & -shape[1]


class Model(nn.Module):
    """A layer of each kind that reads its weight in its own way."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 12)
        self.conv1 = nn.Conv1d(12, 8, 3, groups=2, padding=1)
        self.conv2 = nn.Conv1d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 16, 3, padding=1)
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.out = nn.Linear(8, 16)

    def forward(self, ids):
        x = self.up(self.conv2(self.conv1(self.embed(ids).transpose(1, 2)).relu()).relu())
        return self.out(self.lstm(x.transpose(1, 2))[0])


@grids
@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("granularity", [{"granularity": "channel"}, {"granularity": "group", "group_size": 5}])
def test_every_layer_goes_from_training_through_calibration_into_a_file(name, rotation, granularity, tmp_path):
    torch.manual_seed(0)
    ids, model, stock = torch.randint(10, (4, 9)), Model(), Model()
    stock.load_state_dict(model.state_dict())
    conf = {"mode": 3, "init": "clip", "bits": 3, "estimator": "ste", "grid": name, "rotation": rotation}
    quantize(model, QuantizerConfig("rand", **conf, **granularity))
    model.train()(ids).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    wanted = stock.eval()(ids)
    before = (model(ids) - wanted).square().mean()
    done = {one.name: one for one in calibrate(model, lambda: model(ids)) if not one.reason}
    assert done.keys() == {"conv2.weight", "out.weight"}
    assert (model(ids) - wanted).square().mean() < before
    for one in done.values():
        assert one.error_after < one.error_before
    write_packed(tmp_path / "w3", pack_model(model))
    packed = read_packed(tmp_path / "w3")
    assert packed.weights["out.weight"].grid == GRIDS[name](3)
    for backend in ("dequantize", "auto", "int4_weight_only"):
        decoded = Model()
        load_into(decoded, packed, backend=backend)
        error = (decoded(ids) - model(ids)).square().mean() / model(ids).square().mean()
        assert error < (1e-10 if backend == "dequantize" else 1e-3), "no kernel may take codes for other numbers"


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_autocast_changes_no_packed_weight(rotation):
    torch.manual_seed(0)
    model, ids = nn.Sequential(nn.Embedding(8, 64), nn.Linear(64, 16)), torch.arange(8)
    quantize(model, QuantizerConfig("absmax", rotation=rotation))
    packed = pack_model(model)
    decoded = nn.Sequential(nn.Embedding(8, 64), nn.Linear(64, 16))
    load_into(decoded, packed)
    rows, values = decoded[0](ids), packed.weights["1.weight"].values()
    with torch.autocast(values.device.type, torch.bfloat16):
        assert torch.equal(decoded[0](ids), rows) and torch.equal(packed.weights["1.weight"].values(), values)


def test_large_inputs_in_16_bits_do_not_overflow_in_the_rotation():
    torch.manual_seed(0)
    model, stock = nn.Linear(64, 16, bias=False), nn.Linear(64, 16, bias=False)
    quantize(model, QuantizerConfig("absmax", bits=7, rotation="hadamard"))
    load_into(stock, pack_model(model))
    x = torch.full((1, 64), 2e4)
    torch.testing.assert_close(stock.half()(x.half()).float(), model(x), rtol=0.02, atol=200)


@grids
def test_errors_of_calibration_are_those_that_the_model_then_has(name):
    torch.manual_seed(0)
    x, model = torch.randn(200, 64), nn.Linear(64, 16, bias=False)
    wanted = model.weight.detach().clone()
    quantize(model, QuantizerConfig("rand", mode=3, init="clip", bits=6, grid=name, rotation="hadamard"))
    (done,) = calibrate(model.eval(), lambda: model(x))
    error = (x @ (pack_model(model).weights["weight"].values() - wanted).T).square().sum()
    assert done.error_after == pytest.approx((error / (x @ wanted.T).square().sum()).item(), rel=1e-3)


def test_weights_of_16_bits_are_not_calibrated():
    model = nn.Linear(64, 16, dtype=torch.bfloat16)
    quantize(model, QuantizerConfig("rand"))
    with pytest.raises(QuantizationError, match=r"weight: weights of 16 bits .* Fix: model.float\(\)"):
        calibrate(model.eval(), lambda: model(torch.randn(9, 64, dtype=torch.bfloat16)))


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_sensitivity_by_curvature_sees_the_rotated_weight(rotation):
    """A quadratic loss: noise of a step s on a weight costs s^2 / 12 times its input's mean square, rotated or not."""
    torch.manual_seed(0)
    x, model = torch.randn(64, 16), nn.Linear(16, 4)
    wanted = model(x).detach()
    quantize(model, QuantizerConfig("rand", mode=2, rotation=rotation))
    model.eval()

    def loss():
        return (model(x) - wanted).square().sum()

    found = curvature(model, lambda: loss().backward(), {"weight": [4, 8]}, probes=200)["weight"]
    weight = quantized_weights(model)["weight"]
    turned = ROTATIONS[rotation].inputs(x, 1, 16)
    s4, s8 = (weight.step_sizes(bits).square().sum() for bits in (4, 8))
    expected = (s4 - s8) / 12 * turned.square().sum()
    assert found[4] == pytest.approx(expected.item(), rel=0.1)


@pytest.mark.parametrize("option, value", [("grid", "half"), ("rotation", "fourier"), ("grid", 4)])
def test_others_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option}: {value!r} is not allowed, it must be one of"):
        QuantizerConfig("rand", **{option: value})


@pytest.mark.parametrize("option, value", [("grid", "signed"), ("rotation", "hadamard")])
def test_files_of_a_later_version_are_refused(option, value, tmp_path, monkeypatch):
    model = nn.Linear(4, 4)
    quantize(model, QuantizerConfig("absmax", **{option: value}))
    write_packed(tmp_path / "w4", pack_model(model))
    monkeypatch.delitem(GRIDS if option == "grid" else ROTATIONS, value)
    with pytest.raises(ValueError, match=f"unknown {option} '{value}': update espnet_rand"):
        read_packed(tmp_path / "w4")


@pytest.mark.parametrize("grid", ["symmetric", "asymmetric"])
def test_scales_in_bfloat16_take_two_bytes_and_have_the_gradient_of_others(grid, tmp_path):
    torch.manual_seed(0)
    model, x = nn.Linear(64, 16, bias=False), torch.randn(50, 64)
    conf = {"mode": 3, "bits": 3, "granularity": "group", "group_size": 32, "grid": grid, "scale_dtype": "bfloat16"}
    (entry,) = quantize(model, QuantizerConfig("rand", **conf)).quantized
    model.train()(x).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    done = calibrate(model.eval(), lambda: model(x))
    packed = pack_model(model)
    weight = packed.weights["weight"]
    assert weight.scales.dtype in (torch.float16, torch.bfloat16) and entry.bytes_after == weight.bytes
    assert torch.equal(weight.values(), model.weight) and done[0].error_after < done[0].error_before
