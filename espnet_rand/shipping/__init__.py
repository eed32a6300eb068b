"""From a checkpoint to a folder that is shipped: calibrated, packed, written for a runtime, and checked there."""

from espnet_rand.shipping.steps import Order, ship
from espnet_rand.shipping.targets import TARGETS

__all__ = ["TARGETS", "Order", "ship"]
