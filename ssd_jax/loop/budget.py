"""Choose the number of steps of a run, so that it ends within a given time."""

import dataclasses
import time

import jax
from ml_collections import ConfigDict

from ssd_jax.loop.build import build
from ssd_jax.loop.progress import duration
from ssd_jax.parallel import put_on_devices

TIMED_STEPS = range(5, 40)  # the fewest and the most steps that are timed
TIMED_SECONDS = 10.0  # of steps, between those limits
FEWEST_STEPS = 20  # fewer teach nothing
MARGIN = 0.04  # of the time, for what is not foreseen
# Estimates, in parts of a training step's figure: what an evaluation's program takes to compile, and an image to
# detect in. The step has gradients as well, so that both are on the safe side.
EVAL_COMPILATION, EVAL_IMAGE = 0.5, 0.7
STARTING, DRAWING = 8.0, 8.0  # seconds: to save, load and draw
SAVES, LOGS = 4, 40  # of a run


@dataclasses.dataclass(frozen=True)
class Timing:
    """What the parts of a run took, in seconds.

    Attributes:
      opening: of the data and the model.
      compiling: of the training step.
      step: of a step, with its batch.
      eval_images: the number of images to evaluate on.
      batch_size: images of a step.
    """

    opening: float
    compiling: float
    step: float
    eval_images: int
    batch_size: int

    def besides_training(self) -> float:
        """Return the seconds of a run that are not those of its steps."""
        evaluation = EVAL_IMAGE * self.step / self.batch_size * self.eval_images
        programs = (1 + 2 * EVAL_COMPILATION) * self.compiling  # to train, to evaluate, to draw
        return self.opening + programs + evaluation + STARTING + DRAWING

    def steps_within(self, seconds: float) -> int:
        """Return how many steps a run has that takes `seconds` from now on.

        Raises:
          ValueError: if there is no time for a run worth its while.
        """
        steps = int(((1 - MARGIN) * seconds - self.besides_training()) / self.step)
        if steps < FEWEST_STEPS:
            least = (FEWEST_STEPS * self.step + self.besides_training()) / (1 - MARGIN)
            raise ValueError(
                f"--minutes must leave time for {FEWEST_STEPS} steps, evaluation and drawing, which take "
                f"{duration(least)} more; got {duration(max(seconds, 0))}"
            )
        return steps


def time_steps(config: ConfigDict) -> Timing:
    """Compile the training step of a config and make some steps. Nothing is written.

    Raises:
      ValueError: as `build`.
    """
    before = time.perf_counter()
    run = build(config)
    batches = run.batches()
    state = put_on_devices(run.first_state()[0])
    opening = time.perf_counter() - before

    def step(state):
        state, metrics = run.advance(state, next(batches))
        jax.block_until_ready(metrics)
        return state

    before = time.perf_counter()
    state = step(state)
    compiling = time.perf_counter() - before
    state = step(state)  # the first one after compilation still asks for memory
    before, steps = time.perf_counter(), 0
    while steps < TIMED_STEPS.start or (steps < TIMED_STEPS.stop and time.perf_counter() - before < TIMED_SECONDS):
        state = step(state)
        steps += 1
    seconds = (time.perf_counter() - before) / steps
    return Timing(opening, compiling, seconds, len(run.eval_source), run.config.batch_size)


def with_steps(config: ConfigDict, steps: int) -> ConfigDict:
    """Return the locked config of a run of `steps`, with its warm-up and the like in proportion.

    It has no evaluation: `own_images.show_results` makes one at the end.
    """
    changed = ConfigDict(config.to_dict())
    share = steps / config.steps
    changed.steps = steps
    changed.schedule.warmup_steps = round(share * config.schedule.warmup_steps)
    changed.schedule.boundaries = tuple(round(share * step) for step in config.schedule.boundaries)
    changed.optimizer.thaw_step = round(share * config.optimizer.thaw_step)
    changed.log_every = max(1, steps // LOGS)
    changed.save_every = -(-steps // SAVES)
    changed.eval_every = 0
    return changed.lock()
