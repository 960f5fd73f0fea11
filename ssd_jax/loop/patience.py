"""Early stopping: a run ends when its score has not risen for a number of evaluations."""

from collections.abc import Mapping

import numpy as np


class Patience:
    """Counts the evaluations since the score last rose.

    A score that equals the best is no rise, and one that is not a number is none either. As long as no score is a
    number, as in a split without objects, patience does not end.

    Attributes:
      scores: by step, rising.
    """

    def __init__(self, stop_after: int, scores: Mapping[int, float | None]) -> None:
        """Continue after the evaluations so far.

        Args:
          stop_after: how many evaluations without a rise end the run; 0 for a run that nothing ends.
          scores: of the evaluations so far, by step.

        Raises:
          ValueError: if `stop_after` is negative.
        """
        if stop_after < 0:
            raise ValueError(f"stop_after must be at least 0; got {stop_after}")
        self._stop_after = stop_after
        self.scores: dict[int, float] = {}
        for step in sorted(scores):
            self.add(step, scores[step])

    def add(self, step: int, score: float | None) -> None:
        """Add an evaluation; one of a step that is there already replaces it."""
        self.scores[step] = np.nan if score is None else score

    @property
    def best(self) -> int | None:
        """The step of the highest score, the newest of equals, as `Checkpoints.best`; None without any number."""
        numbers = [(score, step) for step, score in self.scores.items() if not np.isnan(score)]
        return max(numbers)[1] if numbers else None

    @property
    def waited(self) -> int:
        """The number of evaluations since the score last rose."""
        if self.best is None:
            return 0
        first = min(step for step, score in self.scores.items() if score == self.scores[self.best])
        return sum(step > first for step in self.scores)

    @property
    def is_over(self) -> bool:
        """Whether the run should end."""
        return 0 < self._stop_after <= self.waited

    def reason(self, name: str) -> str:
        """Say why the run ends; `name` is that of the score."""
        best = "" if self.best is None else f"; the best, {self.scores[self.best]:.4f}, is that of step {self.best}"
        return f"{name} has not risen in {self.waited} evaluations (stop_after){best}: use it with --step=best"
