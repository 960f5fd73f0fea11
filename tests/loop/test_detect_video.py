"""Detection in videos."""

import json
import os
import signal
import sys
import types

import numpy as np
import pytest
from bright import Bright

from ssd_jax.inference import Detections
from ssd_jax.inference.video import VideoReader, VideoWriter
from ssd_jax.loop import detect_video as module
from ssd_jax.loop.detect_video import detect_video

FRAMES = 23


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Make a video of a square that moves to the right by two pixels a frame, on 96 x 128."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, 10) as writer:
        for number in range(FRAMES):
            writer.write(frame(number))
    return path


def frame(number):
    image = np.zeros((96, 128, 3), np.uint8)
    image[40:64, 10 + 2 * number : 34 + 2 * number] = 255
    return image


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_frame_has_a_line_and_is_in_the_video(clip, tmp_path):
    done = detect_video(Bright(), clip, tmp_path / "out")
    assert (done.frames, done.interrupted) == (FRAMES, None)
    assert sorted(os.listdir(tmp_path / "out")) == ["clip.jsonl", "clip.mp4"]
    table = rows(done.lines)
    assert [row["frame"] for row in table] == list(range(FRAMES))
    np.testing.assert_allclose([row["seconds"] for row in table], np.arange(FRAMES) / 10, atol=1e-3)
    for number, row in enumerate(table):
        assert (row["width"], row["height"]) == (128, 96)
        (found,) = row["detections"]
        # The network sees 64 x 64, and the codec blurs edges.
        np.testing.assert_allclose(found["box"], [10 + 2 * number, 40, 34 + 2 * number, 64], atol=4)
    with VideoReader(clip) as before, VideoReader(done.video) as after:
        assert (after.fps, after.size, after.frames) == (before.fps, before.size, FRAMES)
        for number, image in ((each.number, each.image.astype(int)) for each in after):
            # The box is red, around the white square.
            red = (image[:, :, 0] > 120) & (image[:, :, 1] < 90)
            assert abs(np.nonzero(red.any(axis=0))[0].min() - (10 + 2 * number)) <= 4


def test_lines_are_written_as_they_come_and_the_video_at_the_end(clip, tmp_path, monkeypatch):
    seen = []

    def write(self, image, write=VideoWriter.write):
        seen.append(len(rows(tmp_path / "clip.jsonl")))
        if len(seen) == 9:
            raise RuntimeError("stop")
        write(self, image)

    monkeypatch.setattr(module.VideoWriter, "write", write)
    with pytest.raises(RuntimeError, match="stop"):
        detect_video(Bright(), clip, tmp_path)
    assert seen == list(range(1, 10))
    assert os.listdir(tmp_path) == ["clip.jsonl"]


def test_a_signal_ends_both_files_in_order(clip, tmp_path, monkeypatch):
    def write(self, image, write=VideoWriter.write):
        if self.frames == 4:
            os.kill(os.getpid(), signal.SIGINT)
        write(self, image)

    monkeypatch.setattr(module.VideoWriter, "write", write)
    done = detect_video(Bright(), clip, tmp_path)
    assert (done.frames, done.interrupted) == (5, "SIGINT")
    assert len(rows(done.lines)) == 5
    with VideoReader(done.video) as video:
        assert len(list(video)) == 5


def test_objects_are_numbered_through_the_frames(clip, tmp_path):
    pytest.importorskip("trackers", reason="trackers is not installed: the extra [track]")
    done = detect_video(Bright(), clip, tmp_path, track=True)
    numbers = [found["track"] for row in rows(done.lines) for found in row["detections"]]
    assert len(numbers) == FRAMES
    assert len(set(numbers[2:])) == 1 and numbers[-1] is not None


def test_tracks_are_in_the_lines_and_weak_detections_go_on_with_them(clip, tmp_path, monkeypatch):
    """The tracker is replaced: it gives number 5 to what is found in odd frames."""

    class Odd:
        def __init__(self, *, fps, score):
            assert (fps, score) == (10, 0.95)
            self.frame = -1

        def update(self, found):
            self.frame += 1
            return np.where(np.arange(len(found.scores)) < self.frame % 2, 5, -1)

    monkeypatch.setattr(module, "Tracker", Odd)
    done = detect_video(Bright(), clip, tmp_path, track=True, score=0.95)  # Bright's score is 0.9
    found = [[each["track"] for each in row["detections"]] for row in rows(done.lines)]
    assert found == [[5] if number % 2 else [] for number in range(FRAMES)]


def test_a_track_begins_with_a_detection_that_reaches_the_score_of_its_class():
    """Scores of classes a and b: 0.2 and 0.8. The object of class b reaches its own in frame 3 alone."""
    pytest.importorskip("trackers", reason="trackers is not installed: the extra [track]")
    score = np.array([0.2, 0.8])
    tracker = module.Tracker(fps=10, score=score)
    boxes = np.array([[10, 10, 50, 50], [200, 200, 260, 260]], np.float32)
    kept = []
    for second in (0.35, 0.35, 0.35, 0.85, 0.35, 0.35):
        found = Detections(boxes, np.array([0.5, second], np.float32), np.array([1, 2], np.int32), ("a", "b"))
        detections, numbers = module._kept(found, score, tracker)
        kept.append((detections.labels.tolist(), numbers.tolist()))
    first, second = kept[-1][1]
    assert len({first, second, -1}) == 3
    alone, both = [1], [1, 2]
    # A track has a number from its second frame on.
    assert kept == [
        (alone, [-1]),
        (alone, [first]),
        (alone, [first]),
        (both, [first, -1]),
        (both, [first, second]),
        (both, [first, second]),
    ]


@pytest.mark.parametrize("score", [0.05, np.array([0.05, 0.9])])
def test_a_low_score_keeps_what_it_keeps_without_tracks(score):
    class No:
        def update(self, found):
            return np.full(len(found.scores), -1)

    scores = np.array([0.95, 0.5, 0.07, 0.06, 0.04], np.float32)
    found = Detections(np.zeros((5, 4), np.float32), scores, np.array([2, 2, 2, 1, 1], np.int32))
    kept, numbers = module._kept(found, score, No())
    np.testing.assert_array_equal(kept.scores, found.above(score).scores)
    assert len(numbers) == len(kept.scores) >= 2


def test_the_tracker_is_told_what_reaches_the_score_of_its_class(monkeypatch):
    """The packages are replaced: the tracker numbers each detection, in reversed order."""
    given = []

    class ByteTrackTracker:
        def __init__(self, *, frame_rate, track_activation_threshold, high_conf_det_threshold):
            self.threshold = track_activation_threshold
            assert (frame_rate, high_conf_det_threshold) == (10, track_activation_threshold)

        def update(self, detections):
            given.append(detections.confidence >= self.threshold)
            rows = detections.data["row"][::-1]
            return Boxes(data={"row": rows}, tracker_id=np.arange(len(rows)))

    class Boxes(types.SimpleNamespace):
        def __len__(self):
            return len(self.data["row"])

    monkeypatch.setitem(sys.modules, "trackers", types.SimpleNamespace(ByteTrackTracker=ByteTrackTracker))
    monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=Boxes))
    scores = np.array([0.9, 0.7, 0.35, 0.1], np.float32)
    found = Detections(np.zeros((4, 4), np.float32), scores, np.array([2, 2, 1, 1], np.int32), ("a", "b"))
    for score, strong in ((0.3, [True, True, True, False]), (np.array([0.2, 0.8]), [True, False, True, False])):
        assert module.Tracker(fps=10, score=score).update(found).tolist() == [3, 2, 1, 0]
        assert given.pop().tolist() == strong


def test_a_video_without_frames_is_one_line(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(module.VideoReader, "__iter__", lambda self: iter(()))
    with pytest.raises(ValueError, match=r"clip\.mp4: a video must have at least one frame"):
        detect_video(Bright(), clip, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
