"""Learning rate by step."""

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
    """Learning rate by step: a linear warm-up from 0, then `kind`.

    Args:
      learning_rate: the rate after warm-up.
      steps: updates in the whole run.
      kind: "constant"; "multistep", times `decay` at each of `boundaries` (Caffe's policy); or "cosine", to 0 at
        `steps`.
      warmup_steps: length of the warm-up; 0 for none (the paper).
      boundaries, decay: for "multistep", counted from the start of the run.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not learning_rate > 0:
        raise ValueError(f"schedule.learning_rate must be above 0, got {learning_rate}")
    if kind not in ("constant", "multistep", "cosine"):
        raise ValueError(f"schedule kind must be constant, multistep or cosine, got {kind!r}")
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"schedule.warmup_steps must be at least 0 and less than steps={steps}, got {warmup_steps}")
    if kind == "multistep" and (not boundaries or list(boundaries) != sorted(set(boundaries))):
        raise ValueError(f"a multistep schedule needs increasing boundaries, got {tuple(boundaries)}")
    if kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, steps - warmup_steps)
    elif kind == "multistep":
        after = optax.piecewise_constant_schedule(learning_rate, {b - warmup_steps: decay for b in boundaries})
    else:
        after = optax.constant_schedule(learning_rate)
    if not warmup_steps:
        return after
    # Step 0 already moves: a first rate of exactly zero would waste it.
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, after], [warmup_steps])
