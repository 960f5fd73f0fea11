"""Detect in a video: JSON lines, a line a frame, and the video with labelled boxes."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssd_jax.files import to_json, with_path
from ssd_jax.inference import Detections, Detector, draw
from ssd_jax.inference.tracking import LOW, Tracker
from ssd_jax.inference.video import VideoReader, VideoWriter
from ssd_jax.loop.detect import record
from ssd_jax.loop.signals import Interruption


class VideoResult(NamedTuple):
    """What was written about a video."""

    frames: int
    lines: Path
    video: Path
    interrupted: str | None  # the signal that ended it


def detect_video(
    detector: Detector,
    source: str | Path,
    out: str | Path,
    *,
    score: float | np.ndarray = 0.4,
    tile: int | None = None,
    overlap: float = 0.2,
    track: bool = False,
    stem: str | None = None,
) -> VideoResult:
    """Detect in every frame of a video, or in the newest frames of a live source.

    `STEM.jsonl` is written frame by frame; `STEM.mp4`, the frames with labelled boxes, appears at the end. SIGINT and
    SIGTERM end both after the frame in progress.

    Args:
      detector: what to detect with. A live source needs `batch_size` 1, or it waits for a batch of frames.
      source: of `VideoReader`.
      out: folder for the results; made if it is missing.
      score: the lowest score of a detection that is kept, or of each class [C - 1].
      tile: also look at squares of so many pixels.
      overlap: of neighbouring tiles, a fraction of their side.
      track: whether to number objects through the frames, as "track" (extra `[track]`).
      stem: of the results' names; by default that of the source.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the source is no video, or has no frames; or if trackers is missing.
      OSError: for a file that cannot be written.
    """
    out = Path(out)
    stem = stem or Path(source).stem
    lines, video = out / f"{stem}.jsonl", out / f"{stem}.mp4"
    frames = 0
    with VideoReader(source) as reader, Interruption() as interruption:
        tracker = Tracker(fps=reader.fps, score=score) if track else None
        out.mkdir(parents=True, exist_ok=True)
        results = detector.results(
            reader,
            read=lambda _, frame: frame.image,
            tile=tile,
            overlap=overlap,
            prefetch=1 if reader.live else 2,
            keep_images=True,
        )
        try:
            with VideoWriter(video, reader.fps) as writer, lines.open("w", encoding="utf-8", buffering=1) as file:
                for frame, image, found, size in results:
                    if isinstance(found, Exception):
                        raise found
                    found, numbers = _kept(found, score, tracker)
                    assert image is not None, "keep_images keeps it"
                    place = {"frame": frame.number, "seconds": frame.seconds}
                    file.write(to_json(place | _numbered(record(size, found), numbers)) + "\n")
                    writer.write(draw(image, found, detector.class_names, smallest_side=1, numbers=numbers))
                    frames += 1
                    if interruption.requested:
                        break
        except OSError as error:
            raise error if error.filename or error.errno is None else with_path(error, lines) from error
    if not frames:
        lines.unlink()
        raise ValueError(f"{source}: a video must have at least one frame that can be read; got none")
    return VideoResult(frames, lines, video, interruption.requested)


def _kept(
    found: Detections, score: float | np.ndarray, tracker: Tracker | None
) -> tuple[Detections, np.ndarray | None]:
    """Keep detections from `score` on, and weaker ones that go on with a track, with the tracks' numbers."""
    if tracker is None:
        return found.above(score), None
    found = found.above(np.minimum(LOW, score))
    numbers = tracker.update(found)
    kept = (numbers >= 0) | found.reach(score)
    return found.only(kept), numbers[kept]


def _numbered(row: dict[str, Any], numbers: np.ndarray | None) -> dict[str, Any]:
    if numbers is not None:
        for detection, number in zip(row["detections"], numbers, strict=True):
            detection["track"] = int(number) if number >= 0 else None
    return row
