"""What an image file says of itself before it is decoded."""

from typing import NamedTuple

SIGNATURES = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
PNG_COLOURS = {0: "grayscale", 2: "colour", 3: "palette", 4: "alpha", 6: "alpha"}
JPEG_COLOURS = {1: "grayscale", 3: "colour", 4: "CMYK"}
NO_FRAME = {0xC4, 0xC8, 0xCC}  # markers 0xC0..0xCF that start no frame: DHT, JPG, DAC


class Header(NamedTuple):
    """`extension` "" for an unknown format; `orientation` is EXIF's, 1 = upright; `size` (h, w) where it is told."""

    extension: str
    colour: str = "colour"  # or "grayscale", "palette", "alpha", "CMYK"
    bits: int = 8
    orientation: int = 1
    size: tuple[int, int] | None = None


def read_header(file: bytes) -> Header:
    """Read a file's header; never raises, what is damaged counts as plain."""
    extension = next((e for start, e in SIGNATURES.items() if file.startswith(start)), "")
    if file[:4] == b"RIFF" and file[8:12] == b"WEBP":
        extension = ".webp"
    if extension == ".png" and len(file) > 25:
        size = _number(file[20:24]), _number(file[16:20])
        return Header(extension, PNG_COLOURS.get(file[25], "colour"), file[24], size=size)
    return _jpeg(file) if extension == ".jpg" else Header(extension)


def _jpeg(file: bytes) -> Header:
    header, at = Header(".jpg"), 2
    while at + 10 <= len(file) and file[at] == 0xFF and file[at + 1] != 0xDA:
        marker, length = file[at + 1], _number(file[at + 2 : at + 4])
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0xE1 and file[at + 4 : at + 10] == b"Exif\0\0":
            header = header._replace(orientation=_orientation(file[at + 10 : at + 2 + length]))
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            size = _number(file[at + 5 : at + 7]), _number(file[at + 7 : at + 9])
            header = header._replace(bits=file[at + 4], colour=JPEG_COLOURS.get(file[at + 9], "colour"), size=size)
        at += 2 + length
    return header


def _number(digits: bytes) -> int:
    return int.from_bytes(digits, "big")


def _orientation(tiff: bytes) -> int:
    """EXIF's tag 0x0112 in the first directory; 1 where there is none."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if number(entry, 2) == 0x0112:
            return number(entry + 8, 2)
    return 1
