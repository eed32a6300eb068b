"""Hypothesis settings of these tests: the same examples on every run, no clock."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "espnet_rand",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("espnet_rand")
