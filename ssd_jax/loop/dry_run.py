"""A run tried for a few steps: does it fit, and how long will it take?"""

import time

import numpy as np
from ml_collections import ConfigDict

from ssd_jax.loop.build import build
from ssd_jax.parallel import put_on_devices, shard


def dry_run(config: ConfigDict, *, steps: int = 5) -> str:
    """Compile a run's step, make `steps` of them, and say what memory and time they took. Nothing is written.

    Raises:
      ValueError: as `train`.
    """
    run = build(config)
    batches = run.batches()
    state, origin = run.first_state()
    state = put_on_devices(state)
    seconds = []
    for _ in range(1 + steps):
        batch = next(batches)
        start = time.perf_counter()
        state, metrics = run.advance(state, batch)
        loss = float(metrics["loss"])
        seconds.append(time.perf_counter() - start)
    first, second = seconds[0], float(np.median(seconds[1:]))
    # This finds the step that was compiled above.
    memory = run.step.lower(state, shard(batch.arrays), run.key).compile().memory_analysis()
    for _ in range(run.config.data.threads + 2):  # those that were made meanwhile
        next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    load = (time.perf_counter() - start) / steps
    lines = [
        run.summary() + origin,
        f"the first step, which compiles, took {first:.1f} s",
        f"memory of a device: {_gb(memory.argument_size_in_bytes)} for state and batch, "
        f"{_gb(memory.temp_size_in_bytes)} while a step runs",
        f"a step takes {second:.3f} s, {config.batch_size / second:.1f} images a second",
        f"a batch takes {load:.3f} s to read" + ("; the devices would wait for it" if load > second else ""),
        f"the {config.steps} steps would take {_hours(config.steps * max(second, load))}, evaluation aside",
        f"the loss is {loss:.3f} after {1 + steps} steps; nothing was written",
    ]
    return "\n".join(lines)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _hours(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min"
