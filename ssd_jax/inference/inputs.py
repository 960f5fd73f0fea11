"""The kinds of images that a detector takes."""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps

from ssd_jax.data.formats import UnreadableImage
from ssd_jax.data.image import decode_image
from ssd_jax.files import read_bytes

Image = np.ndarray | str | Path | bytes | PIL.Image.Image
"""RGB uint8 [h, w, 3], the path of an image file, its bytes, or an image of PIL."""

BITS_PER_SAMPLE = 0x0102  # a tag of TIFF


def read_image(image: Image, *, bgr: bool = False, name: str = "an image") -> np.ndarray:
    """Return an image as upright RGB uint8 [h, w, 3].

    Args:
      image: any of `Image`. Files and images of PIL are turned as their EXIF says; arrays are taken as they are.
        16 bits become 8. Levels of PIL's modes I and F must be from 0 to 255, unless its file says which is white.
      bgr: whether arrays are BGR, as OpenCV's are.
      name: how errors call an image that is no path.

    Raises:
      TypeError: for something that is no image.
      ValueError: for an array of another kind, or a file that cannot be decoded; it names the image.
      OSError: for a file that cannot be read.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            order = "BGR" if bgr else "RGB"
            raise ValueError(f"{name} must be uint8 {order} [h, w, 3]; got {image.dtype} {list(image.shape)}")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if bgr else image
    if isinstance(image, PIL.Image.Image):
        return _from_pil(image, name)
    if not isinstance(image, str | Path | bytes):
        kinds = "a NumPy array, uint8 RGB [h, w, 3], a path, bytes or an image of PIL"
        raise TypeError(f"{name} must be {kinds}; got {type(image).__name__}")
    try:
        return decode_image(image if isinstance(image, bytes) else read_bytes(image))
    except UnreadableImage as error:
        raise UnreadableImage(f"{name if isinstance(image, bytes) else image}: {error}") from None


def _level_of_white(image: PIL.Image.Image) -> int:
    """Return the level of white of an image of PIL, which knows it only of modes of 8 bits."""
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]  # a TIFF may have 12
        return 2**bits - 1
    return 65535 if image.mode == "I" and image.format in ("PPM", "PNG") else 255


def _from_pil(image: PIL.Image.Image, name: str) -> np.ndarray:
    white = _level_of_white(image)
    try:
        image = PIL.ImageOps.exif_transpose(image)  # without the file's format and tags
        levels = np.asarray(image)
        if white > 255:
            scaled = levels.astype(np.uint32) * 65535 // white
            return decode_image(np.minimum(scaled, 65535).astype(np.uint16))
        if image.mode in ("I", "F"):
            least, most = np.min(levels), np.max(levels)
            if not 0 <= least <= most <= 255:  # PIL would cut them off
                raise ValueError(f"levels from {least:g} to {most:g} in mode {image.mode}: scale them to 0 to 255")
        return decode_image(np.asarray(image.convert("RGB")))
    except (OSError, ValueError, SyntaxError) as error:  # PIL reads the pixels only now
        raise UnreadableImage(f"{name} must be an image that PIL can decode; got {error}") from None
