"""What an image file tells before it is decoded, and whether it is whole."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import PIL.Image
from PIL import BmpImagePlugin, GifImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
WIDTH, HEIGHT, ORIENTATION = 0x0100, 0x0101, 0x0112  # tags of EXIF and TIFF
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's markers before the size
SCAN = 0xDA  # JPEG's marker before compressed pixels
END = b"\xff\xd9"  # JPEG's marker after them
# The classes are called directly: PIL.Image.open has a limit of its own on pixels, which is global to the process.
PILLOW: dict[str, tuple[bytes, Callable]] = {
    "BMP": (rb"BM", BmpImagePlugin.BmpImageFile),
    "GIF": (rb"GIF8", GifImagePlugin.GifImageFile),
    "PPM": (rb"P[1-6]\s", PpmImagePlugin.PpmImageFile),
    "TIFF": (rb"II\*\0|MM\0\*", TiffImagePlugin.TiffImageFile),
    "WebP": (rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
}
# The best compression of each format. PNG: deflate packs 1032 bytes, each of up to 8 pixels, into one. JPEG: a block
# of 64 pixels takes at least one bit. BMP: two bytes for a run of 255 pixels.
MOST_PIXELS_A_BYTE = {"JPEG": 512, "PNG": 8 * 1032, "BMP": 128}


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message is one line and says why."""


class Header(NamedTuple):
    """The header of an image file."""

    format: str  # "JPEG", "PNG", or a name in `PILLOW`
    size: tuple[int, int]  # (height, width) of the stored pixels
    orientation: int  # EXIF's, from 1 to 8; 1 is upright

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) after the image is turned as its orientation says."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(file: bytes) -> Header:
    """Read the header of an image file; no pixels are decoded, nothing large is allocated.

    Raises:
      UnreadableImage: the format is none of ours, the header is damaged, or the file is cut short.
    """
    if not file:
        raise UnreadableImage("the file is empty")
    if file.startswith(b"\xff\xd8"):
        header = _jpeg_header(file)
    elif file.startswith(b"\x89PNG\r\n\x1a\n"):
        header = _png_header(file)
    else:
        header = _other_header(file)
    height, width = header.size
    if height * width > len(file) * MOST_PIXELS_A_BYTE.get(header.format, height * width):
        raise UnreadableImage(f"the file is damaged: {len(file)} bytes cannot hold {width} x {height} pixels")
    return header


def jpeg_segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, start and end of every segment of the header. The last is `SCAN`, and all that follows it.

    Bytes between segments that belong to none are skipped, as libjpeg does.
    """
    at = 2
    while (at := jpeg.find(b"\xff", at)) >= 0 and at + 4 <= len(jpeg):
        marker = jpeg[at + 1]
        if marker == SCAN:
            yield marker, at, len(jpeg)
            return
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # fill bytes, and markers without a segment
            at += 1
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        yield marker, at, end
        at = end


def has_end(jpeg: bytes) -> bool:
    """Tell whether an end marker follows the pixels; a thumbnail in the header has one too."""
    return any(marker == SCAN and END in jpeg[start:] for marker, start, _ in jpeg_segments(jpeg))


def without_extras(jpeg: bytes) -> bytes:
    """Remove bytes that make libjpeg warn, though the image is complete, from a JPEG that has an end marker.

    These are bytes between the segments of the header, and equal bytes before the end marker, which some encoders
    write as padding. If the equal bytes replaced pixels, pixels are missing now, and libjpeg still warns.
    """
    *segments, scans = (jpeg[start:end] for _, start, end in jpeg_segments(jpeg))
    pixels = scans.partition(END)[0]
    last = pixels[-1:]
    return b"".join([jpeg[:2], *segments, pixels.rstrip(last), last, END])


def png_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the data of every chunk, to the end of the image.

    Raises:
      UnreadableImage: the file ends within a chunk, or a critical chunk fails its checksum.
    """
    at, name = 8, b""
    while name != b"IEND":
        length, name = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        if at + 12 + length > len(png):
            raise UnreadableImage(f"the file is damaged: a chunk says that it has {length} bytes, more than the file")
        checksum = int.from_bytes(png[at + 8 + length : at + 12 + length], "big")
        if not name[0] & 0x20 and zlib.crc32(memoryview(png)[at + 4 : at + 8 + length]) != checksum:  # upper case
            raise UnreadableImage(f"the file is damaged: the checksum of its chunk {name!r} is wrong")
        yield name, png[at + 8 : at + 8 + length]
        at += 12 + length


def _jpeg_header(jpeg: bytes) -> Header:
    size, exif = None, b""
    for marker, start, end in jpeg_segments(jpeg):
        if marker in FRAMES:
            size = struct.unpack_from(">HH", jpeg.ljust(start + 9, b"\0"), start + 5)
        elif marker == 0xE1 and jpeg.startswith(b"Exif\0\0", start + 4):
            exif = exif or jpeg[start + 10 : end]
    if size is None:
        raise UnreadableImage("the file is damaged: its header has no size" if has_end(jpeg) else cut_short(jpeg))
    return Header("JPEG", size, _orientation(exif))


def _png_header(png: bytes) -> Header:
    if b"IEND\xae\x42\x60\x82" not in png:
        raise UnreadableImage(cut_short(png))
    chunks = [(name, data if name in (b"IHDR", b"eXIf") else b"") for name, data in png_chunks(png)]
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise UnreadableImage("the file is damaged: a PNG must begin with a chunk IHDR of 13 bytes")
    header, exif = chunks[0][1], dict(chunks).get(b"eXIf", b"")
    return Header("PNG", (int.from_bytes(header[4:8], "big"), int.from_bytes(header[:4], "big")), _orientation(exif))


def _other_header(file: bytes) -> Header:
    for name, (signature, pillow_class) in PILLOW.items():
        if not re.match(signature, file, re.DOTALL):
            continue
        try:
            image = pillow_class(io.BytesIO(file), "")
            width, height = image.size
            orientation = _orientation(image.info.get("exif", b""))
            if name == "TIFF":  # whose size Pillow gives as turned
                width, height, orientation = (image.tag_v2.get(tag, 1) for tag in (WIDTH, HEIGHT, ORIENTATION))
        except Exception as error:  # Pillow raises whatever the damage leads to
            raise UnreadableImage(f"the header is damaged: {_line(error)}") from None
        return Header(name, (height, width), orientation if orientation in range(1, 9) else 1)
    known = ", ".join(["JPEG", "PNG", *PILLOW])
    raise UnreadableImage(f"the file must be {known}; got one that begins with {file[:8]!r}")


def without_orientation(tiff: bytes) -> bytes:
    """Set the orientation of a TIFF to upright."""
    order = "<" if tiff.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", tiff, entry) == (ORIENTATION,):
            return tiff[: entry + 8] + struct.pack(f"{order}H", 1) + tiff[entry + 10 :]
    return tiff


def level_of_white(file: bytes) -> int:
    """Return the level that a PPM or PGM says is white; 255 for a bitmap of PBM, which has none."""
    header = re.sub(rb"#[^\r\n]*", b"", file[:1000])
    found = re.match(rb"P[2356]\s+\d+\s+\d+\s+(\d+)", header)
    return int(found[1]) if found else 255


def cut_short(file: bytes) -> str:
    """Say that a JPEG or PNG has no end."""
    return f"the file is cut short (no end-of-image marker in its {len(file)} bytes)"


def _orientation(exif: bytes) -> int:
    """EXIF data -> its orientation, from 1 to 8; 1 where there is none, or it is damaged."""
    if not exif:
        return 1
    try:
        tags = PIL.Image.Exif()
        tags.load(exif)
        orientation = tags.get(ORIENTATION, 1)
    except Exception:  # Pillow raises whatever the damage leads to
        return 1
    return orientation if orientation in range(1, 9) else 1


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
