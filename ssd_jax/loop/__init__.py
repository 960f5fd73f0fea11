"""A run from start to end: the only room that sees the config, the disk and the devices."""

from ssd_jax.loop.evaluation import evaluate
from ssd_jax.loop.fit import train
from ssd_jax.loop.interruption import EXIT_CODE
from ssd_jax.loop.rehearsal import rehearse
from ssd_jax.loop.workdir import load_config

__all__ = ["EXIT_CODE", "evaluate", "load_config", "rehearse", "train"]
