"""The same object in the frames of a video, by ByteTrack (arXiv:2110.06864) of the package trackers."""

import numpy as np

from ssd_jax.extras import import_extra
from ssd_jax.inference.detections import Detections

LOW = 0.1
"""Detections from this score on may go on with a track, as in ByteTrack's paper."""


class Tracker:
    """Numbers objects through the frames of one video."""

    def __init__(self, *, fps: float, score: float | np.ndarray) -> None:
        """Begin without objects.

        Args:
          fps: frames a second.
          score: the lowest one that may begin a track, or that of each class [C - 1].

        Raises:
          ValueError: if trackers is not installed.
        """
        trackers = import_extra("trackers", "track")
        self._score = score
        self._tracker = trackers.ByteTrackTracker(
            frame_rate=fps, track_activation_threshold=0.5, high_conf_det_threshold=0.5
        )

    def update(self, found: Detections) -> np.ndarray:
        """Return the numbers [n] of the objects that were found in the next frame, -1 where there is none (yet).

        Args:
          found: all detections from `LOW` on.
        """
        given = found.to_supervision()
        # ByteTrack has one threshold for all classes, and uses scores for nothing else.
        given.confidence = found.reach(self._score).astype(np.float32)
        given.data["row"] = np.arange(len(found.scores))
        answer = self._tracker.update(given)
        numbers = np.full(len(found.scores), -1)
        if len(answer):
            numbers[np.asarray(answer.data["row"], int)] = answer.tracker_id
        return numbers
