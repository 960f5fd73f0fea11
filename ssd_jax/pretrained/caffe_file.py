"""Read the layers' names and weights of a `.caffemodel`, a protocol buffer in wire format.

We decode the few fields that we need, because Caffe's own reader needs Caffe, and protobuf's needs code generated
from `caffe.proto`, where the numbers of the fields stand.
"""

import math
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
# A field of two bytes in the file takes some hundred here. Caffe packs a blob's numbers into one field.
MOST_FIELDS = 1 << 18
MOST_AXES = 8
LARGEST_SIZE = (1 << 63) - 1


def read_caffe(path: Path) -> dict[str, np.ndarray]:
    """Read the blobs of a `.caffemodel` as float32 arrays, by name: `layer.weight`, `layer.bias`, `layer.2`, ....

    Raises:
      ValueError: in one line that names the file, for a file that is damaged or no `.caffemodel`.
    """
    rule = "a file of weights that is neither .pth nor .safetensors must be a whole .caffemodel"
    try:
        tensors = Reader().tensors(memoryview(path.read_bytes()))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: {rule}; got a layer whose name is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {rule}; got {error}") from None
    if not tensors:
        raise ValueError(f"{path}: {rule}; got one without weights, such as a .prototxt")
    return tensors


class Reader:
    """A reader of one file, which counts its fields."""

    def __init__(self) -> None:
        """Start with no fields counted."""
        self._fields = 0

    def tensors(self, message: memoryview) -> dict[str, np.ndarray]:
        """Read a NetParameter."""
        tensors: dict[str, np.ndarray] = {}
        for field, value in self.fields(message):
            if field in (LAYER, LAYER_V1):
                name_field, blob_field = (NAME, BLOBS) if field == LAYER else (NAME_V1, BLOBS_V1)
                layer = list(self.fields(_message(value)))
                name = next((bytes(_message(v)).decode() for f, v in layer if f == name_field), "")
                blobs = [_message(v) for f, v in layer if f == blob_field]
                for index, blob in enumerate(blobs):
                    part = ("weight", "bias")[index] if index < 2 else str(index)
                    tensors[f"{name}.{part}"] = self._blob(blob, f"{name}.{part}")
        return tensors

    def fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Go through a message's fields; give the number of each, and its integer or its bytes."""
        position = 0
        while position < len(message):
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise ValueError(f"more than {MOST_FIELDS} fields")
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

    def _blob(self, message: memoryview, name: str) -> np.ndarray:
        sides, shape, floats, doubles = [0, 0, 0, 0], None, [], []
        for field, value in self.fields(message):
            if field in SIDES and isinstance(value, int):
                sides[field - 1] = value
            elif field == SHAPE:
                shape = self._shape(_message(value))
            elif field == DATA:
                floats.append(_message(value))
            elif field == DOUBLE_DATA:
                doubles.append(_message(value))
        shape = sides if shape is None else shape
        if max(shape, default=0) > LARGEST_SIZE:
            raise ValueError(f"{name[:100]!r} with a side beyond 2^63 - 1")
        floats, doubles = b"".join(floats), b"".join(doubles)
        if len(floats) % 4 or len(doubles) % 8:
            raise ValueError(f"{name[:100]!r} that ends in the middle of a number")
        data = np.frombuffer(floats, "<f4") if floats else np.frombuffer(doubles, "<f8")
        if math.prod(shape) != data.size:
            raise ValueError(f"{name[:100]!r} of shape {shape} with {data.size} numbers")
        return data.reshape(shape).astype(np.float32)

    def _shape(self, message: memoryview) -> list[int]:
        """Read the sides of a BlobShape, each a field, or all packed into one."""
        shape: list[int] = []
        for field, value in self.fields(message):
            if field == DIM and isinstance(value, int):
                shape.append(value)
            elif field == DIM and isinstance(value, memoryview):
                position = 0
                while position < len(value) and len(shape) <= MOST_AXES:
                    side, position = _varint(value, position)
                    shape.append(side)
            if len(shape) > MOST_AXES:
                raise ValueError(f"a blob of more than {MOST_AXES} axes")
        return shape


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            raise ValueError("its end in the middle of a number")
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
