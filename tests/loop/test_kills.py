"""A run that is killed and started again ends as one left alone; `kills.py` does this at length."""

import signal

import jax
import kills


def test_a_killed_run_ends_bit_equal_to_the_straight_one():
    hits, equal = kills.compare([signal.SIGKILL, signal.SIGTERM], cache=jax.config.jax_compilation_cache_dir)
    assert hits == 2
    assert equal
