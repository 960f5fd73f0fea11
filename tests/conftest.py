"""Strict in tests: four CPU devices, no silent rank or dtype promotion; warnings are errors (setup.cfg)."""

import os

# Both must be set before jax starts. NPROC keeps jax <= 0.11.2 from deadlocking on fake devices.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
