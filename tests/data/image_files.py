"""Image files that tests make."""

import io
import struct
import zlib

import cv2
import numpy as np
import PIL.Image


def make_image(h, w, seed=0):
    """Smooth colours, so that JPEG changes little."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3)).astype(np.uint8)
    return cv2.resize(corners, (w, h), interpolation=cv2.INTER_LINEAR)


def photograph(h=90, w=120, seed=0):
    """Colours and grain, so that a JPEG of it has some kilobytes."""
    random = np.random.default_rng(seed)
    coarse = cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + random.normal(0, 6, (h, w, 3)), 0, 255).astype(np.uint8)


def encode(image, extension=".jpg", options=()):
    bgr = image if image.ndim == 2 else np.concatenate([image[:, :, 2::-1], image[:, :, 3:]], axis=2)
    return cv2.imencode(extension, bgr, options)[1].tobytes()


def with_orientation(image, orientation, kind):
    """Encode stored pixels with an EXIF orientation, as Pillow writes it."""
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    file = io.BytesIO()
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    PIL.Image.fromarray(image).save(file, kind, exif=tags, **options)
    return file.getvalue()


def png_chunk(name, data, length=None):
    length = len(data) if length is None else length
    return struct.pack(">I", length) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(height, width, pixels=b"", bits=1, idat_length=None):
    """A grayscale PNG with any promise of size; `pixels` are its rows, each after a byte for the filter."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(pixels, 9), idat_length)
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def rle_bmp(height, width, rows):
    """A BMP with run lengths: `rows` of one grey."""
    row = b"\xff\x07" * (width // 255) + bytes([width % 255, 7]) * bool(width % 255) + b"\0\0"
    data, palette = row * rows + b"\0\1", b"".join(bytes([k, k, k, 0]) for k in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data
