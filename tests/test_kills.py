"""A run that is killed and started again ends as one left alone; `kills.py` does this at length."""

import signal

import kills
import pytest


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_killed_runs_end_bit_equal_to_the_straight_one(name):
    hits, equal = kills.compare(kills=1, number=signal.Signals[name])
    assert hits == 1
    assert equal
