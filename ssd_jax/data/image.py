"""One image: read, decoded to upright RGB, and resized."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import cv2
import numpy as np
import simplejpeg

from ssd_jax.data.formats import (
    Header,
    UnreadableImage,
    cut_short,
    has_end,
    level_of_white,
    read_header,
    without_extras,
    without_orientation,
)
from ssd_jax.files import read_bytes
from ssd_jax.sides import Side, sides_of

logger = logging.getLogger("ssd_jax")

GREY = 128  # pixels of the image that replaces an unreadable one
# libjpeg's messages about complete images. Some encoders add a byte or two after the pixels. The interface of libjpeg
# that simplejpeg uses refuses rare kinds of subsampling.
HARMLESS = re.compile(
    "determine subsampling level|unknown JFIF revision|Unknown Adobe color transform|Invalid SOS parameters"
    r"|Inconsistent progression|\b[12] extraneous bytes before marker 0xd9"
)


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """The limits and choices of the readers of datasets.

    Attributes:
      max_pixels: height x width of the largest image. A larger one is unreadable.
      max_annotation_bytes: size of the largest annotation file. A larger one is an error.
      exif: whether images are turned as their EXIF orientation says. "turn": always. "ignore": never, for boxes that
        were drawn on the stored pixels. "auto": unless the annotation gives the size of the stored pixels.
      size_mismatch: what to do if the size in the annotation is not the image's. "warn": name the images and count
        them. "error": raise a `ValueError` when the image is read. "ignore": nothing. Boxes are fractions of the size
        in the annotation in any case.
    """

    max_pixels: int = 100_000_000
    max_annotation_bytes: int = 2_000_000_000
    exif: Literal["auto", "turn", "ignore"] = "auto"
    size_mismatch: Literal["warn", "error", "ignore"] = "warn"

    @classmethod
    def among(cls, values: Mapping[str, Any]) -> "ReadOptions":
        """Take the options that are among `values`, which may have other names too."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})

    def __post_init__(self):
        for name in ("max_pixels", "max_annotation_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("exif", "size_mismatch"):
            choices = get_args(get_type_hints(ReadOptions)[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")


DEFAULTS = ReadOptions()


def read(path: Path) -> bytes:
    """Read a regular file; on failure log a warning and return b"", which `decode_image` reports as unreadable."""
    try:
        return read_bytes(path)
    except OSError as error:
        logger.warning("%s: %s", path, error.strerror)
    except ValueError as error:
        logger.warning("%s", error)
    return b""


def decode_image(
    image: bytes | np.ndarray,
    *,
    size: tuple[int, int] | None = None,
    options: ReadOptions = DEFAULTS,
    at_least: int | None = None,
) -> np.ndarray:
    """Decode an image file, or convert an array.

    Grayscale becomes three equal channels, alpha is dropped, 16 bits become 8. The level that a PPM or PGM says is
    white becomes 255.

    Args:
      image: an encoded file, or uint8 or uint16 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], which is upright.
      size: (height, width) in the annotation, which tells whether it was made on the turned image.
      options: limits, and what to do about EXIF.
      at_least: decode a JPEG at a half, a quarter or an eighth of its sides, the smallest at which the longer one is
        still at least this number of pixels. libjpeg then computes each pixel from the low frequencies of its block,
        which is close to a mean over the pixels that it stands for, and faster. None: the image as it is.

    Returns:
      RGB uint8 [h, w, 3].

    Raises:
      UnreadableImage: the format is unknown, or the image is too large, damaged or cut short.
    """
    if isinstance(image, np.ndarray):
        return _decode_array(image)
    file = bytes(image)
    header = _read_header(file, options)
    if header.format == "TIFF" and header.orientation != 1:
        file = without_orientation(file)  # OpenCV turns a TIFF whatever its flags are
    if header.format == "JPEG":
        pixels = _decode_jpeg(file, _reduced(header.size, at_least))
    else:
        pixels = _decode_ppm(file) if header.format == "PPM" else _decode_file(file)
    return _turn(pixels, header.orientation) if _is_turned(header, size, options) else pixels


def decoded_size(
    image: bytes | np.ndarray, *, size: tuple[int, int] | None = None, options: ReadOptions = DEFAULTS
) -> tuple[int, int]:
    """Read the header; return (height, width) of the array that `decode_image` returns without `at_least`.

    Args:
      image: see `decode_image`.
      size: see `decode_image`.
      options: see `decode_image`.

    Raises:
      UnreadableImage: the header is damaged, or the image is too large.
    """
    if isinstance(image, np.ndarray):
        return image.shape[:2]
    header = _read_header(bytes(image), options)
    return header.upright_size if _is_turned(header, size, options) else header.size


def _read_header(file: bytes, options: ReadOptions) -> Header:
    header = read_header(file)
    height, width = header.size
    if not 0 < height * width <= options.max_pixels:
        raise UnreadableImage(
            f"the image must have at most {options.max_pixels:,} pixels (max_pixels); got {width} x {height}"
        )
    return header


def _is_turned(header: Header, size: tuple[int, int] | None, options: ReadOptions) -> bool:
    """Tell whether the image is turned as its orientation says."""
    if options.exif != "auto" or not size or header.orientation < 5:
        return options.exif != "ignore"
    # The annotation may be of a resized copy, so compare only which side is the longer one.
    (stored_height, stored_width), (height, width) = header.size, size
    return (stored_height - stored_width) * (height - width) <= 0


def _turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF's orientation, from 1 to 8, to stored pixels [h, w, 3]."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _decode_array(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise UnreadableImage(
            "an array image must be uint8 or uint16 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] and not empty; "
            f"got {image.dtype} {list(image.shape)}"
        )
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3]


def _reduced(size: tuple[int, int], at_least: int | None) -> dict[str, Any]:
    """Return simplejpeg's options for the smallest fast scale of libjpeg whose longer side is at least `at_least`."""
    for divisor in (8, 4, 2):
        height, width = (-(-side // divisor) for side in size)
        if at_least and max(height, width) >= at_least:
            return {"min_height": height, "min_width": width}
    return {}


def _decode_jpeg(file: bytes, reduced: dict[str, Any]) -> np.ndarray:
    """Decode a JPEG, unless pixels are missing or damaged: libjpeg only warns of that, simplejpeg raises an error."""
    try:
        return simplejpeg.decode_jpeg(file, **reduced)
    except ValueError:
        if not has_end(file):
            raise UnreadableImage(cut_short(file)) from None
    try:
        return simplejpeg.decode_jpeg(without_extras(file), **reduced)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        if HARMLESS.search(reason):
            return _decode_file(file)
        raise UnreadableImage(f"the file is damaged: {reason}") from None


def _decode_ppm(file: bytes) -> np.ndarray:
    """Decode a PPM or PGM: OpenCV scales the levels of texts of 8 bits, but of no other file."""
    white = level_of_white(file)
    if white in (255, 65535) or (white < 255 and file[:2] in (b"P2", b"P3")):
        return _decode_file(file)
    levels = _decode(file, cv2.IMREAD_UNCHANGED)
    image = np.minimum(np.rint(levels * np.float32(255 / white)), 255).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


def _decode_file(file: bytes) -> np.ndarray:
    image = _decode(file, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)  # OpenCV 5.0.0 mixes up the channels of IMREAD_COLOR_RGB


def _decode(file: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(file, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableImage(f"the file is damaged: {error.err}") from None
    if image is None:
        raise UnreadableImage("the file is damaged: OpenCV cannot decode it")
    return image


def warp(image: np.ndarray, size: Side) -> np.ndarray:
    """Resize uint8 [h, w, 3] linearly, whatever its proportions: SSD's transform at test time.

    Args:
      image: uint8 [h, w, 3].
      size: side of the result, or (height, width), pixels.
    """
    return _resize(image, *sides_of(size))


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink uint8 [h, w, 3] so that no side is above `size`; return an image that fits as it is.

    Proportions are kept to a pixel. The image is halved while it is more than twice too large, so that every pixel
    counts, and then interpolated. This is several times faster than a mean over areas.
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
