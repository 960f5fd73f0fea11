"""The old name of `ssd_jax.data`."""

from ssd_jax.moved import moved

__getattr__ = moved(__name__, "ssd_jax.data")
