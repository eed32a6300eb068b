"""The science, in plain torch: scale, estimator, granularity, grid and precision, and what they make together."""

from espnet_rand.quantizers.estimator import ESTIMATORS, Noise, StraightThrough
from espnet_rand.quantizers.granularity import GRANULARITIES, PerChannel, PerColumn, PerGroup, PerTensor
from espnet_rand.quantizers.grid import GRIDS, Grid, grid_name, wrong_steps
from espnet_rand.quantizers.precision import DrawnPrecision, Precision
from espnet_rand.quantizers.scale import SCALES, AbsMax, Clip, LearnedScale, Rand
from espnet_rand.quantizers.weight_quantizer import WeightQuantizer

__all__ = [
    "ESTIMATORS",
    "GRANULARITIES",
    "GRIDS",
    "SCALES",
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
    "StraightThrough",
    "WeightQuantizer",
    "grid_name",
    "wrong_steps",
]
