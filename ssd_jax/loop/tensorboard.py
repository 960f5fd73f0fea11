"""TensorBoard's file of events, written by the thread that calls.

tensorboardX's `SummaryWriter` has its own thread. When a full disk ends that thread, the next call never returns.
"""

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import RecordWriter

from ssd_jax.files import with_path


class TensorBoard:
    """Writes a new file of events into a folder; an error of the disk is an OSError that names the folder."""

    def __init__(self, folder: Path, start_step: int) -> None:
        """Begin a file; TensorBoard drops what an interrupted run wrote after `start_step`."""
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"))
        self._write(Event(file_version="brain.Event:2"))
        if start_step:
            self._write(Event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name."""
        self._write(*(Event(step=step, summary=summary.scalar(name, value)) for name, value in values.items()))

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Write RGB uint8 images [h, w, 3] by name."""
        summaries = (summary.image(name, image, dataformats="HWC") for name, image in images.items())
        self._write(*(Event(step=step, summary=value) for value in summaries))

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # every event was flushed, or raised its error, when it was written
            self._file.close()

    def _write(self, *events: Any) -> None:
        try:
            for event in events:
                event.wall_time = time.time()
                self._file.write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            raise with_path(error, self._folder) from error
