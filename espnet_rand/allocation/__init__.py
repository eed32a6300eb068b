"""Chooses the bits of each weight: what fewer bits cost the loss, and the best plan for a budget. No ESPnet here."""

from espnet_rand.allocation.sensitivity import candidates, curvature, measured
from espnet_rand.allocation.solver import BudgetError, Table, allocate

__all__ = ["BudgetError", "Table", "allocate", "candidates", "curvature", "measured"]
