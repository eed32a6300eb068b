import itertools
import random

import pytest

from espnet_rand import OptionError
from espnet_rand.allocation import BudgetError, allocate


def brute_force(losses, sizes, budget):
    """The least loss of all choices within the budget; None if there is none."""
    choices = itertools.product(*(row.items() for row in losses.values()))
    fits = (c for c in choices if sum(sizes[name][bits] for name, (bits, _) in zip(losses, c)) <= budget)
    return min((sum(loss for _, loss in c) for c in fits), default=None)


@pytest.mark.parametrize("seed", range(40))
def test_it_is_the_best_of_all_choices(seed):
    rng = random.Random(seed)
    unit = 10 ** rng.uniform(-6, 6)
    losses, sizes = {}, {}
    for n in range(rng.randint(1, 5)):
        bits = rng.sample(range(2, 9), rng.randint(1, 5))
        numbers = rng.choice([1, 7, 10**3, 10**7])
        losses[f"w{n}"] = {b: unit * rng.choice([rng.random(), rng.gauss(0, 1), 0.0]) for b in bits}
        sizes[f"w{n}"] = {b: b * numbers for b in bits}
    least, most = (sum(end(row.values()) for row in sizes.values()) for end in (min, max))
    budget = rng.choice([least, most, rng.uniform(least, most)])
    plan = allocate(losses, sizes, budget)
    assert plan.keys() == losses.keys()
    assert sum(sizes[name][bits] for name, bits in plan.items()) <= budget
    found = sum(losses[name][bits] for name, bits in plan.items())
    assert found == pytest.approx(brute_force(losses, sizes, budget), rel=1e-5, abs=5e-6 * unit)


@pytest.mark.parametrize("seed", range(10))
def test_one_weight_that_breaks_the_model_does_not_blur_the_others(seed):
    """Milp's tolerance is relative to the largest number."""
    rng = random.Random(seed)
    losses = {f"w{n}": {2: 10 ** rng.uniform(-9, -7), 4: 0.0} for n in range(12)}
    losses["w0"][2] = 3.0
    sizes = {name: {2: 2.0, 4: 4.0} for name in losses}
    plan = allocate(losses, sizes, 36)
    expected = sorted(losses[name][2] for name in losses)[:6]
    assert sum(losses[name][bits] for name, bits in plan.items()) == pytest.approx(sum(expected), rel=1e-9)


def test_a_loss_that_is_no_number_is_refused():
    table = {"a": {2: 20.0, 4: float("nan")}}
    with pytest.raises(OptionError, match="the loss of a is"):
        allocate(table, {"a": {2: 2.0, 4: 4.0}}, 4)


def test_an_impossible_budget_is_refused():
    table = {"a": {2: 20.0, 4: 40.0}, "b": {3: 30.0}}
    assert allocate(table, table, 50) == {"a": 2, "b": 3}
    with pytest.raises(BudgetError, match="49 is not possible, the least is 50"):
        allocate(table, table, 49)
