"""Rounding that the data decide: what the layers' inputs are, and the steps and codes that their outputs mind least."""

from espnet_rand.calibration.calibrate import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]
