"""Weights published by other projects, backbones and trained SSDs, as parameters of our model."""

from ssd_jax.pretrained.start import start_from, write_workdir
from ssd_jax.pretrained.tensors import read_tensors
from ssd_jax.pretrained.weights import Weights, load

__all__ = ["Weights", "load", "read_tensors", "start_from", "write_workdir"]
