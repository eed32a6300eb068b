"""Post-training quantization: data choose the steps and codes that the layers' outputs mind least. No ESPnet here."""

from espnet_rand.calibration.calibrate import Calibration, calibrate, check_steps

__all__ = ["Calibration", "calibrate", "check_steps"]
