"""Solves for the bits of each weight with the least predicted loss within a budget: a small integer program."""

import math
from typing import Dict

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from espnet_rand.options import OptionError

#: Numbers by weight, and by number of bits.
Table = Dict[str, Dict[int, float]]


class BudgetError(OptionError):
    """The budget is less than any choice of bits needs."""


def allocate(losses: Table, sizes: Table, budget: float) -> Dict[str, int]:
    """Choose bits for each weight: the least sum of `losses` whose sum of `sizes` is at most `budget`.

    This is a multiple-choice knapsack, which scipy's milp (HiGHS) solves. The budget is kept exactly.

    Args:
        losses: predicted loss of each weight at each number of bits
        sizes: size of each weight at each number of bits, in the unit of `budget`

    Raises:
        BudgetError: the smallest choice is beyond the budget
        OptionError: a loss is no finite number
    """
    for name, row in losses.items():
        if not all(map(math.isfinite, row.values())):
            raise OptionError(f"the loss of {name} is {row}, by bits: not all finite numbers, so nothing can be chosen")
    # milp is exact to a millionth of the largest loss: so losses that are larger than a whole plan's are left out
    while True:
        plan = _solve(losses, sizes, budget)
        least = {name: min(row.values()) for name, row in losses.items()}
        most = sum(losses[name][bits] - least[name] for name, bits in plan.items())
        kept = {n: {b: loss for b, loss in row.items() if loss - least[n] <= most} for n, row in losses.items()}
        if kept == losses:
            return plan
        losses = kept


def _solve(losses: Table, sizes: Table, budget: float) -> Dict[str, int]:
    """`allocate`, exact to milp's tolerance of the loss. Raises BudgetError as it does."""
    choices = [(name, bits) for name, row in losses.items() for bits in row]
    smallest = sum(min(sizes[name][bits] for bits in row) for name, row in losses.items())
    if smallest > budget:
        raise BudgetError(f"{budget:g} is not possible, the least is {smallest:g}")
    loss = np.array([losses[name][bits] for name, bits in choices])
    size = np.array([sizes[name][bits] for name, bits in choices])
    one_each = np.array([[float(name == chosen) for chosen, _ in choices] for name in losses])
    # HiGHS' tolerances are absolute, 1e-6: in numbers around 1
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(size[None] / (budget or 1), ub=1)]
    while True:
        result = milp(
            loss / (np.abs(loss).max() or 1),
            constraints=constraints,
            integrality=np.ones(len(choices)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0},
        )
        if not result.success:
            raise RuntimeError(f"scipy's milp found no choice of bits: {result.message}")
        taken = result.x > 0.5
        plan = {name: bits for (name, bits), chosen in zip(choices, taken) if chosen}
        if sum(sizes[name][bits] for name, bits in plan.items()) <= budget:
            return plan
        # the plan is beyond the budget, by less than the tolerance: take any other
        constraints.append(LinearConstraint(taken[None].astype(float), ub=len(losses) - 1))
