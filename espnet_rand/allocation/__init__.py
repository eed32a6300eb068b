"""Which weight gets how many bits: what each costs the loss, and the best choice within a budget. No ESPnet here."""

from espnet_rand.allocation.sensitivity import candidates, curvature, measured
from espnet_rand.allocation.solver import BudgetError, Table, allocate

__all__ = ["BudgetError", "Table", "allocate", "candidates", "curvature", "measured"]
