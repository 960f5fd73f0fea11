"""Frames of video files, cameras and network streams, and video files of frames, by OpenCV."""

import logging
import math
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np

logger = logging.getLogger("ssd_jax")

VIDEO_EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"),
)
URL = re.compile(r"(rtsp|rtsps|rtmp|http|https|udp|tcp|srt)://")
FPS = 30.0  # of a source that does not say


def is_video(source: str | Path) -> bool:
    """Tell whether `source` is a video file by its name, the address of a stream, or the number of a camera."""
    return str(source).lower().endswith(VIDEO_EXTENSIONS) or is_live(source)


def is_live(source: str | Path) -> bool:
    """Tell whether `source` is a camera's number or the address of a stream."""
    text = str(source)
    return bool(URL.match(text)) or (text.isdecimal() and not Path(text).exists())


class Frame(NamedTuple):
    """One frame of a video."""

    number: int  # from 0; a live source has gaps
    seconds: float  # since the beginning, as the video says
    image: np.ndarray  # RGB uint8 [h, w, 3]


class VideoReader:
    """Iterates the frames of a video; a context manager.

    A live source never falls behind: of the frames that came since the last one was asked for, the newest is taken.

    Attributes:
      name: of the source.
      live: whether it is a camera or a stream.
      fps: frames a second, as the source says, or 30.
      size: (height, width) of the frames.
      frames: how many the file says that it has; None if it does not say, and for a live source.
    """

    def __init__(self, source: str | Path) -> None:
        """Open a file, the number of a camera ("0"), or the address of a stream ("rtsp://...").

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if OpenCV cannot read it as a video.
        """
        self.name, self.live = str(source), is_live(source)
        self._lock, self._closed = threading.Lock(), False
        if self.live:
            self._capture = cv2.VideoCapture(int(self.name) if self.name.isdecimal() else self.name)
        else:
            self._capture = cv2.VideoCapture(_file_name(Path(source)), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise ValueError(f"{self.name}: must be a video that OpenCV can read; got something else")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else FPS
        self.size = int(self._property(cv2.CAP_PROP_FRAME_HEIGHT)), int(self._property(cv2.CAP_PROP_FRAME_WIDTH))
        frames = self._property(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(frames) if not self.live and frames >= 1 else None

    def _property(self, which: int) -> float:
        value = self._capture.get(which)
        return value if math.isfinite(value) else 0.0

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames that follow; a warning says if a file has clearly fewer than it declares."""
        if self.live:
            yield from _newest(self._read())
            return
        number = -1
        for frame in self._read():
            number = frame.number
            yield frame
        if self.frames and not self._closed and number + 1 < 0.98 * self.frames - 1:
            logger.warning(
                "%s: says that it has %d frames, but only %d can be read", self.name, self.frames, number + 1
            )

    def _read(self) -> Iterator[Frame]:
        number = 0
        while True:
            with self._lock:
                if self._closed:
                    return
                read, image = self._capture.read()
                seconds = self._property(cv2.CAP_PROP_POS_MSEC) / 1000 or number / self.fps  # 0: not known
            if not read:
                return
            yield Frame(number, round(seconds, 4), cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image))
            number += 1

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Close the source; a thread that iterates it gets no more frames."""
        with self._lock:  # a read in progress would use what is released
            self._closed = True
            self._capture.release()


def _file_name(path: Path) -> str:
    """Return what OpenCV may be told: it takes no bytes that are not UTF-8, and reads some names as addresses."""
    if not path.is_file():
        raise FileNotFoundError(f"no such video: {path}")
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: the name of a video must be UTF-8; got other bytes") from None
    return name


def _newest(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Read frames in a thread as they come, and yield the newest each time; older ones are dropped."""
    changed = threading.Condition()
    latest: list[Frame] = []
    state = {"ended": False, "left": False}

    def read() -> None:
        for frame in frames:
            with changed:
                latest[:] = [frame]
                changed.notify()
                if state["left"]:
                    return
        with changed:
            state["ended"] = True
            changed.notify()

    threading.Thread(target=read, name="camera", daemon=True).start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: latest or state["ended"])
                if not latest:
                    return
                frame = latest.pop()
            yield frame
    finally:
        with changed:
            state["left"] = True


class VideoWriter:
    """Writes an MP4 file, whole or not at all; a context manager. The first frame gives its size.

    The codec is MPEG-4 part 2, the best for MP4 files that OpenCV's wheels can write. VLC, ffmpeg and OpenCV play it;
    browsers do not: `ffmpeg -i FILE -c:v libx264 NEW.mp4` makes one that they play.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        """Prepare to write `path`, which appears when the context ends without an error."""
        self._path, self._fps = Path(path), fps
        self._partial = self._path.with_name(f".{self._path.stem}.partial.mp4")
        self._writer: cv2.VideoWriter | None = None
        self.frames = 0

    def write(self, image: np.ndarray) -> None:
        """Append RGB uint8 [h, w, 3]; a later frame of another size is resized to the first.

        Raises:
          OSError: if the file cannot be made.
        """
        height, width = image.shape[:2]
        if self._writer is None:
            self._size = width - width % 2, height - height % 2  # MPEG-4 has even sides
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(
                os.path.abspath(self._partial), cv2.CAP_FFMPEG, code, self._fps, self._size
            )
            if not self._writer.isOpened():
                raise OSError(f"{self._path}: cannot be written")
        if (width, height) != self._size:
            image = cv2.resize(image, self._size)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """Finish the file, unless an error ends the context.

        Raises:
          OSError: if the file does not have all frames, as on a full disk: OpenCV does not say so.
        """
        try:
            if self._writer is None:
                return
            self._writer.release()
            if kind is None:
                written = cv2.VideoCapture(os.path.abspath(self._partial), cv2.CAP_FFMPEG)
                frames = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
                written.release()
                if frames != self.frames:
                    raise OSError(f"{self._path}: must have {self.frames} frames; got {frames}: is the disk full?")
                os.replace(self._partial, self._path)
        finally:
            self._partial.unlink(missing_ok=True)
