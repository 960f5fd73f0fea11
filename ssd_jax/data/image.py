"""One image: decoded to RGB, and resized."""

import logging
from pathlib import Path

import cv2
import numpy as np

logger = logging.getLogger("ssd_jax")

GREY = 128  # what stands in for an image that cannot be read


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message is one line and says why."""


def read(path: Path) -> bytes:
    """Read a file; on failure log a warning and return b"", which `decode` reports as an unreadable image."""
    try:
        return path.read_bytes()
    except OSError as error:
        logger.warning("%s: %s", path, error.strerror)
        return b""


def decode(image: bytes | np.ndarray) -> np.ndarray:
    """An encoded file or an array -> RGB uint8 [h, w, 3].

    Grayscale becomes three equal channels, alpha is dropped, 16 bits become 8. EXIF orientation is ignored,
    since annotations are made on the stored pixels. Raises `UnreadableImage` for what is no image, or only
    a part of one: some decoders return the missing part of a truncated file as grey.
    """
    return _decode_array(image) if isinstance(image, np.ndarray) else _decode_file(bytes(image))


def _decode_array(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise UnreadableImage(
            f"an array image is uint8 or uint16 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] and not empty; "
            f"got {image.dtype} {list(image.shape)}"
        )
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3]


def _decode_file(file: bytes) -> np.ndarray:
    if not file:
        raise UnreadableImage("the file is empty")
    if not _reaches_its_end(file):
        raise UnreadableImage(f"the file is cut short (no end-of-image marker in its {len(file)} bytes)")
    # JPEG's own decoder gives RGB, which saves a pass; OpenCV 5.0.0 mixes up channels of other formats that way.
    colour = cv2.IMREAD_COLOR_RGB if _is_jpeg(file) else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(file, np.uint8), colour | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UnreadableImage(f"the decoder refuses it: {error.err}") from None
    if image is None:
        raise UnreadableImage(f"no image in a format that can be read (its first bytes: {file[:8]!r})")
    return image if _is_jpeg(file) else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_jpeg(file: bytes) -> bool:
    return file.startswith(b"\xff\xd8")


def _reaches_its_end(file: bytes) -> bool:
    """Whether a JPEG or PNG holds its end marker; other formats are the decoder's to judge."""
    if _is_jpeg(file):
        return file.rfind(b"\xff\xd9", _first_scan(file)) >= 0
    if file.startswith(b"\x89PNG"):
        return file.rfind(b"IEND\xae\x42\x60\x82") >= 0
    return True


def _first_scan(jpeg: bytes) -> int:
    """Where the first scan starts: the thumbnail in a header has an end marker too, coded data never."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        fill = jpeg[at + 1] == 0xFF
        at += 1 if fill else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return at


def warp(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [h, w, 3] -> [size, size, 3], both sides stretched, linear: SSD's transform at test time."""
    return _resize(image, size, size)


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [h, w, 3] -> [h', w', 3], neither side above `size`; an image that fits stays as it is.

    Proportions are kept to a pixel. The image is halved while it is more than twice as large, so that every pixel
    counts, and then interpolated: several times faster than a mean over areas, and no rougher than `warp`.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= size:
        return image
    h, w = (max(1, round(side * size / longer)) for side in (height, width))
    while height > 2 * h or width > 2 * w:
        height, width = max(h, -(-height // 2)), max(w, -(-width // 2))
        image = _resize(image, height, width)
    return _resize(image, h, w)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
