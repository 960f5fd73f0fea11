"""The learning rate at each step."""

import optax


def make_schedule(
    *,
    learning_rate: float,
    steps: int,
    kind: str = "constant",
    warmup_steps: int = 0,
    boundaries: tuple[int, ...] = (),
    decay: float = 0.1,
) -> optax.Schedule:
    """Return the learning rate as a function of the step: a linear warm-up, then `kind`.

    Args:
      learning_rate: the rate after the warm-up, above 0.
      steps: updates in the whole run.
      kind: "constant"; "multistep" (Caffe's policy), which multiplies the rate by `decay` at each of `boundaries`; or
        "cosine", which reaches 0 at `steps`.
      warmup_steps: steps of the warm-up, fewer than `steps`; 0 for none (the paper).
      boundaries: increasing steps, counted from the start of the run. Used by "multistep" alone.
      decay: the factor at each boundary. Used by "multistep" alone.

    Raises:
      ValueError: for a value out of its range.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if not learning_rate > 0:
        raise ValueError(f"schedule.learning_rate must be above 0; got {learning_rate}")
    if kind not in ("constant", "multistep", "cosine"):
        raise ValueError(f"schedule.kind must be constant, multistep or cosine; got {kind!r}")
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"schedule.warmup_steps must be at least 0 and less than steps={steps}; got {warmup_steps}")
    if kind == "multistep" and (not boundaries or list(boundaries) != sorted(set(boundaries))):
        raise ValueError(f"schedule.boundaries must be increasing steps for kind multistep; got {tuple(boundaries)}")
    if kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, steps - warmup_steps)
    elif kind == "multistep":
        after = optax.piecewise_constant_schedule(learning_rate, {b - warmup_steps: decay for b in boundaries})
    else:
        after = optax.constant_schedule(learning_rate)
    if not warmup_steps:
        return after
    # The warm-up starts above 0, so that step 0 is not wasted.
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, after], [warmup_steps])
