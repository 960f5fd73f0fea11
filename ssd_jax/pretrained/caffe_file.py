"""Read a `.caffemodel`: a protocol buffer in wire format, of which we need layers' names and their blobs.

Field numbers are those of Caffe's `caffe.proto`.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
LAYER, LAYER_V1 = 100, 2  # of NetParameter
NAME, BLOBS = 1, 7  # of LayerParameter
NAME_V1, BLOBS_V1 = 4, 6  # of V1LayerParameter, deprecated and in use
SIDES = (1, 2, 3, 4)  # of BlobProto: num, channels, height, width, deprecated and in use
DATA, SHAPE, DOUBLE_DATA = 5, 7, 8  # of BlobProto
DIM = 1  # of BlobShape


def read_caffe(path: Path) -> dict[str, np.ndarray]:
    """Return the blobs of a `.caffemodel` as float32 arrays, by name: `layer.weight`, `layer.bias`, `layer.2`, ....

    Raises:
      ValueError: in one line, for a file that is damaged or no `.caffemodel`.
    """
    tensors: dict[str, np.ndarray] = {}
    try:
        for field, value in fields(memoryview(path.read_bytes())):
            if field in (LAYER, LAYER_V1):
                name_field, blob_field = (NAME, BLOBS) if field == LAYER else (NAME_V1, BLOBS_V1)
                layer = list(fields(_message(value)))
                name = next((bytes(_message(v)).decode() for f, v in layer if f == name_field), "")
                blobs = [_message(v) for f, v in layer if f == blob_field]
                for index, blob in enumerate(blobs):
                    part = ("weight", "bias")[index] if index < 2 else str(index)
                    tensors[f"{name}.{part}"] = _blob(blob, f"{name}.{part}")
    except (IndexError, UnicodeDecodeError, struct.error, ValueError) as error:
        raise ValueError(
            f"{path} is truncated, damaged or not a file of weights (read as a .caffemodel): {error}"
        ) from None
    if not tensors:
        raise ValueError(
            f"{path} has no weights in it: a .caffemodel was expected, not a .prototxt or something else"
        )
    return tensors


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Go through a message's fields: their numbers, and an integer or the bytes of each."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire_type = key >> 3, key & 7
        if field == 0:
            raise ValueError("a field of number 0")
        if wire_type == VARINT:
            value, position = _varint(message, position)
            yield field, value
            continue
        if wire_type == BYTES:
            length, position = _varint(message, position)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError(f"a field of wire type {wire_type}")
        if position + length > len(message):
            raise ValueError(f"a field of {length} bytes where {len(message) - position} are left")
        yield field, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 64 bits")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of a message")
    return value


def _integers(value: int | memoryview) -> list[int]:
    """Read a repeated integer, packed or not."""
    if isinstance(value, int):
        return [value]
    numbers, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        numbers.append(number)
    return numbers


def _blob(message: memoryview, name: str) -> np.ndarray:
    sides, shape, floats, doubles = [0, 0, 0, 0], None, [], []
    for field, value in fields(message):
        if field in SIDES and isinstance(value, int):
            sides[field - 1] = value
        elif field == SHAPE:
            shape = [n for f, v in fields(_message(value)) if f == DIM for n in _integers(v)]
        elif field == DATA:
            floats.append(_message(value))
        elif field == DOUBLE_DATA:
            doubles.append(_message(value))
    data = np.frombuffer(b"".join(floats), "<f4") if floats else np.frombuffer(b"".join(doubles), "<f8")
    shape = sides if shape is None else shape
    if math.prod(shape) != data.size:
        raise ValueError(f"{name} has shape {shape} and {data.size} numbers")
    return data.reshape(shape).astype(np.float32)
