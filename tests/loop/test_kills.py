"""A run that is killed and started again ends as one left alone; `kills.py` does this at length."""

import signal

import jax
import kills
import pytest


@pytest.mark.parametrize(
    ("signals", "settings"),
    [([signal.SIGKILL, signal.SIGTERM], ()), ([signal.SIGKILL], kills.LIGHT), ([signal.SIGTERM], kills.RETINA)],
    ids=["plain", "light", "RetinaNet"],
)
def test_a_killed_run_ends_bit_equal_to_the_straight_one(signals, settings):
    hits, equal = kills.compare(signals, settings=settings, cache=jax.config.jax_compilation_cache_dir)
    assert hits == len(signals)
    assert equal
