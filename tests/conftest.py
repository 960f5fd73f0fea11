"""Strict in tests: four CPU devices, no silent rank or dtype promotion; warnings are errors (setup.cfg)."""

import gc
import os

import xla

# Both must be set before jax starts. NPROC keeps jax <= 0.11.2 from deadlocking on fake devices.
os.environ["XLA_FLAGS"] = xla.flags(devices=4)
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["SSD_JAX_FAST_CPU"] = "0"  # programs that tests start share compiled programs with the tests

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# Several tests train the same tiny model: it is compiled once, for all of them and for both workers.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# Linux allows a process 65,530 maps of memory. Each compiled program takes several; without maps XLA aborts.
MAPS, MOST_MAPS = Path("/proc/self/maps"), 30_000

# Tracing makes many objects that stay: to look through all of them as often as by default takes a quarter of it.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True, scope="module")
def promotion(request):
    """Allow no silent dtype promotion, but in modules that say `PROMOTION = "standard"` since a library promotes."""
    with jax.numpy_dtype_promotion(getattr(request.module, "PROMOTION", "strict")):
        yield


@pytest.fixture(autouse=True, scope="module")
def few_maps():
    """Forget the compiled programs of earlier modules when they take much of what the system allows."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()
