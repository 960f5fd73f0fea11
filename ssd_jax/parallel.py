"""Spread a step over the devices: the only file that says pmap."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

AXIS = "batch"


def over_devices(step: Callable[..., Any], devices: Sequence[jax.Device] | None = None) -> Callable[..., Any]:
    """Run `step(state, batch, key) -> (state, metrics)` on every device, each with its share of the batch.

    The state keeps its single-device shape, going in and coming out, and is donated. `step` must make its result
    the same on all devices by sums over `AXIS`. The batch's arrays are `[devices, per device, ...]` (see `split`).
    """
    return jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices, donate_argnums=0)


def replicate(state: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """Place a new or restored state as the step of `over_devices` returns it.

    Without, the second step would be compiled anew, for a state that came from the devices.
    """
    count = jax.local_device_count() if devices is None else len(devices)
    identity = jax.pmap(lambda state, _: state, AXIS, in_axes=(None, 0), out_axes=None, devices=devices)
    return identity(state, np.zeros(count, np.float32))


def map_devices(function: Callable[..., Any], devices: Sequence[jax.Device] | None = None) -> Callable[..., Any]:
    """Run `function(variables, images)` on every device: variables whole, images and results split."""
    return jax.pmap(function, AXIS, in_axes=(None, 0), out_axes=0, devices=devices)


def split(batch: dict[str, np.ndarray], devices: int) -> dict[str, np.ndarray]:
    """Turn `[B, ...]` arrays into `[devices, B / devices, ...]`; an uneven B is a `ValueError`."""
    sizes = {len(array) for array in batch.values()}
    if len(sizes) != 1 or (size := sizes.pop()) % devices:
        raise ValueError(f"the batch must divide evenly over {devices} devices, got sizes {sizes or size}")
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in batch.items()}
