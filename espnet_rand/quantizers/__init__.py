"""The science, in plain torch: scale, estimator, granularity, precision, grid and rotation, and what they make."""

from espnet_rand.quantizers.estimator import ESTIMATORS, Noise, StraightThrough
from espnet_rand.quantizers.granularity import GRANULARITIES, PerChannel, PerColumn, PerGroup, PerTensor
from espnet_rand.quantizers.grid import GRIDS, Grid, Steps, grid_name, wrong_steps
from espnet_rand.quantizers.precision import DrawnPrecision, Precision
from espnet_rand.quantizers.rotation import ROTATIONS, Rotation, rotation_name
from espnet_rand.quantizers.scale import SCALES, AbsMax, Clip, LearnedScale, Rand, Scale
from espnet_rand.quantizers.weight_quantizer import SCALE_DTYPES, WeightQuantizer

__all__ = [
    "ESTIMATORS",
    "GRANULARITIES",
    "GRIDS",
    "ROTATIONS",
    "SCALES",
    "SCALE_DTYPES",
    "AbsMax",
    "Clip",
    "DrawnPrecision",
    "Grid",
    "LearnedScale",
    "Noise",
    "PerChannel",
    "PerColumn",
    "PerGroup",
    "PerTensor",
    "Precision",
    "Rand",
    "Scale",
    "Rotation",
    "Steps",
    "StraightThrough",
    "WeightQuantizer",
    "grid_name",
    "rotation_name",
    "wrong_steps",
]
