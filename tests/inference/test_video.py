"""Videos: every frame, in order."""

import os
import threading

import cv2
import numpy as np
import pytest

from ssd_jax.inference.video import Frame, VideoReader, VideoWriter, _newest, is_video

FRAMES = 25


def frame(number, size=(48, 64)):
    """Make a gray frame whose level tells its number."""
    return np.full((*size, 3), 8 * number + 30, np.uint8)


def number_of(image):
    return round((float(image.mean()) - 30) / 8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, 25.0) as writer:
        for number in range(FRAMES):
            writer.write(frame(number))
    return path


def test_a_video_is_read_as_it_was_written(clip):
    with VideoReader(clip) as video:
        assert (video.fps, video.size, video.frames, video.live) == (25.0, (48, 64), FRAMES, False)
        frames = list(video)
    assert [frame.number for frame in frames] == list(range(FRAMES))
    assert [number_of(frame.image) for frame in frames] == list(range(FRAMES))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(FRAMES) / 25, atol=1e-3)
    assert os.listdir(clip.parent) == ["clip.mp4"]


def test_the_colours_are_rgb(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:] = (200, 40, 90)
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(image)
    with VideoReader(tmp_path / "a.mp4") as video:
        (only,) = video
    np.testing.assert_allclose(only.image.mean(axis=(0, 1)), (200, 40, 90), atol=6)


def test_sides_become_even_and_frames_of_another_size_are_resized(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(frame(1, (49, 65)))
        writer.write(frame(2, (20, 30)))
    with VideoReader(tmp_path / "a.mp4") as video:
        assert video.size == (48, 64)
        assert [number_of(each.image) for each in video] == [1, 2]


def test_an_error_leaves_no_video(tmp_path):
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(frame(1))
        raise KeyError
    with VideoWriter(tmp_path / "b.mp4", 10):
        pass
    assert os.listdir(tmp_path) == []


def test_a_video_with_frames_missing_is_an_error(tmp_path):
    message = r"a\.mp4: must have 2 frames; got 1: is the disk full\?"
    with pytest.raises(OSError, match=message), VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(frame(1))
        writer.frames += 1
    assert os.listdir(tmp_path) == []


def test_a_cut_off_video_is_reported(clip, tmp_path, caplog):
    capture = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(FRAMES):
        capture.write(frame(number))
    capture.release()
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: len(whole) * 3 // 4])
    with VideoReader(tmp_path / "a.avi") as video:
        video.frames = FRAMES
        assert 0 < len(list(video)) < 23
    assert "a.avi: says that it has 25 frames, but only" in caplog.text


def test_what_is_no_video_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^no such video: .*gone\.mp4$"):
        VideoReader(tmp_path / "gone.mp4")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"a\.mp4: must be a video that OpenCV can read; got something else$"):
        VideoReader(tmp_path / "a.mp4")
    name = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="the name of a video must be UTF-8; got other bytes"):
        VideoReader(tmp_path / name)


def test_a_closed_video_has_no_more_frames(clip, caplog):
    with VideoReader(clip) as video:
        frames = iter(video)
        assert next(frames).number == 0
    assert list(frames) == []
    assert not caplog.text


def test_sources_are_told_apart_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(map(is_video, ("a.mp4", "dir/B.MKV", "0", "rtsp://camera/1", "http://host/a")))
    assert not any(map(is_video, ("a.jpg", "a.gif", "folder", "a.tar", "c:/photos")))
    (tmp_path / "0").mkdir()
    assert not is_video("0")


def test_of_a_live_source_the_newest_frame_is_taken():
    go_on, taken, end = (threading.Event() for _ in range(3))

    def camera():
        yield Frame(0, 0.0, frame(0))
        assert go_on.wait(60)
        yield from (Frame(number, 0.0, frame(number)) for number in (1, 2, 3))
        taken.set()  # the thread asks for the next one
        assert end.wait(60)

    frames = _newest(camera())
    assert next(frames).number == 0
    go_on.set()
    assert taken.wait(60)
    assert next(frames).number == 3
    end.set()
    assert list(frames) == []
