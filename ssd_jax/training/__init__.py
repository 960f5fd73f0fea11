"""One step of training: state, learning rate, optimiser, update. It knows the name of an axis, but no devices."""

from ssd_jax.training.optimizer import is_bias, is_decayed, is_frozen, make_optimizer, rate_factors
from ssd_jax.training.schedule import make_schedule
from ssd_jax.training.state import TrainState, create_state
from ssd_jax.training.step import Targets, make_train_step, moving_average

__all__ = [
    "Targets",
    "TrainState",
    "create_state",
    "is_bias",
    "is_decayed",
    "is_frozen",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "moving_average",
    "rate_factors",
]
