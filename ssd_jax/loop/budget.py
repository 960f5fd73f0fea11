"""Choose the number of steps of a run, so that it ends within a given time."""

import bisect
import dataclasses
import time
from collections.abc import Callable

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

    def seconds_of(self, steps: int, evaluations: int) -> float:
        """Return the seconds of a run from now on, which has so many steps, and evaluations before its end."""
        evaluation = EVAL_IMAGE * self.step / self.batch_size * self.eval_images
        # To train, to evaluate at the end, to draw; and to evaluate on the way.
        programs = (1 + (3 if evaluations else 2) * EVAL_COMPILATION) * self.compiling
        total = self.opening + programs + steps * self.step + (1 + evaluations) * evaluation + STARTING + DRAWING
        return total / (1 - MARGIN)

    def steps_within(self, seconds: float, evaluations: Callable[[int], int] = lambda steps: 0) -> int:
        """Return how many steps a run has that takes `seconds` from now on.

        Args:
          seconds: of the run.
          evaluations: how many a run of so many steps makes before the one at its end.

        Raises:
          ValueError: if there is no time for a run worth its while.
        """
        counts = range(max(FEWEST_STEPS, int(seconds / self.step)) + 1)
        steps = bisect.bisect(counts, seconds, key=lambda steps: self.seconds_of(steps, evaluations(steps))) - 1
        if steps < FEWEST_STEPS:
            least = self.seconds_of(FEWEST_STEPS, evaluations(FEWEST_STEPS))
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

    What is above 0 stays so where 0 means never. A run with `stop_after` has at most as many evaluations as before.
    Any other one has none: `own_images.show_results` makes one at the end.

    Args:
      config: as `fields.complete` returns it.
      steps: of the run, at least 1.
    """
    changed = ConfigDict(config.to_dict())
    share = steps / config.steps
    changed.steps = steps
    schedule, thaw_step = changed.schedule, config.optimizer.thaw_step
    if "warmup_steps" in schedule:
        schedule.warmup_steps = min(round(share * schedule.warmup_steps), steps - 1)
    if "boundaries" in schedule:
        boundaries: list[int] = []
        for step in schedule.boundaries:  # rising, however few the steps are
            boundaries.append(max([round(share * step), 1, *(last + 1 for last in boundaries[-1:])]))
        schedule.boundaries = tuple(boundaries)
    changed.optimizer.thaw_step = max(1, round(share * thaw_step)) if thaw_step else 0
    changed.log_every = max(1, steps // LOGS)
    changed.save_every = -(-steps // SAVES)
    changed.eval_every = -(-steps // evaluations_of(config)) if config.stop_after and config.eval_every else 0
    return changed.lock()


def evaluations_of(config: ConfigDict) -> int:
    """Return the number of evaluations that a run makes while it trains, the one after its last step included."""
    return -(-config.steps // config.eval_every) if config.eval_every > 0 else 0
