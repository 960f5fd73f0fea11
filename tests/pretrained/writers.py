"""Files of weights in each format, written without the libraries that own it."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

KINDS = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<f8": "DoubleStorage", "<i8": "LongStorage"}


class Global:
    """A name that a pickle asks for; `Pickler` writes it, whether or not there is such a thing."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """The result of calling a `Global`, as a pickle would have it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Persistent:
    """A reference to a storage."""

    def __init__(self, *reference):
        self.reference = reference


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def pickled(value):
    """Write a pickle of protocol 2 by hand, from plain data and the classes above."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value):
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return _pickled(value.function) + _pickled(tuple(value.arguments)) + b"R"
    if isinstance(value, Persistent):
        return _pickled(value.reference) + b"Q"
    if isinstance(value, dict):
        return b"}(" + b"".join(_pickled(k) + _pickled(v) for k, v in value.items()) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_pickled, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_pickled, value)) + b"e"
    if isinstance(value, str):
        return text(value)
    return pickle.dumps(value, protocol=2)[2:-1]


class Saved:
    """A dict of arrays as torch would save it: a description, and storages."""

    def __init__(self, tensors, *, views=False):
        self.storages = {}
        self.description = {name: self._tensor(np.asarray(a), views) for name, a in tensors.items()}

    def _tensor(self, array, views):
        key = str(len(self.storages))
        # A view has numbers around it, and its axes in another order.
        flat = (
            np.concatenate([np.zeros(3), array.T.ravel(), np.zeros(2)]).astype(array.dtype)
            if views
            else array.ravel()
        )
        self.storages[key] = flat
        strides = np.cumprod((1, *array.shape[:-1])) if views else np.cumprod((1, *array.shape[:0:-1]))[::-1]
        kind = Global("torch", KINDS[array.dtype.newbyteorder("<").str])
        storage = Persistent("storage", kind, key, "cpu", flat.size)
        shape, strides = array.shape, tuple(int(s) for s in strides[: array.ndim])
        rebuild = Global("torch._utils", "_rebuild_tensor_v2")
        hooks = Call(Global("collections", "OrderedDict"))
        return Call(rebuild, storage, 3 if views else 0, shape, strides, False, hooks)


def zip_bytes(description, storages, *, byteorder="little", compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        entries = {"data.pkl": pickled(description), "byteorder": byteorder}
        entries |= {f"data/{key}": numbers.tobytes() for key, numbers in storages.items()}
        for name, content in (entries | {"version": "3\n"}).items():
            info = zipfile.ZipInfo(f"weights/{name}")  # of a fixed date
            info.compress_type = compression
            archive.writestr(info, content)
    return file.getvalue()


def legacy_bytes(description, storages, *, little_endian=True):
    parts = [pickled(0x1950A86A20F9469CFC6C), pickled(1001)]
    parts.append(pickled({"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"long": 4}}))
    description = _with_views(description)
    parts += [pickled(description), pickled(list(storages))]
    parts += [struct.pack("<q", numbers.size) + numbers.tobytes() for numbers in storages.values()]
    return b"".join(parts)


def _with_views(value):
    """In the legacy format a reference to a storage has a sixth part."""
    if isinstance(value, Persistent):
        return Persistent(*value.reference, None)
    if isinstance(value, Call):
        return Call(value.function, *map(_with_views, value.arguments))
    if isinstance(value, dict):
        return {k: _with_views(v) for k, v in value.items()}
    return value


def pth(tensors, *, legacy=False, views=False, wrap=lambda description: description):
    saved = Saved(tensors, views=views)
    return (legacy_bytes if legacy else zip_bytes)(wrap(saved.description), saved.storages)


def safetensors(tensors):
    header, data = {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    """A field of a protocol buffer: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def caffemodel(tensors, *, v1=False):
    """Write `layer.weight`, `layer.bias` as blobs; `v1` in the format from before 2015."""
    layers = {}
    for name, array in tensors.items():
        layers.setdefault(name.rpartition(".")[0], []).append(np.asarray(array, "<f4"))
    out = field(1, b"net")
    for name, blobs in layers.items():
        message = (
            field(4 if v1 else 1, name.encode()) + field(5, 4) if v1 else field(1, name.encode()) + field(2, b"Conv")
        )
        for array in blobs:
            if v1:
                sides = (1,) * (4 - array.ndim) + array.shape
                blob = b"".join(field(i, side) for i, side in enumerate(sides, start=1))
                blob += b"".join(varint(5 << 3 | 5) + number.tobytes() for number in array.ravel())
            else:
                blob = field(7, field(1, b"".join(map(varint, array.shape)))) + field(5, array.tobytes())
            message += field(6 if v1 else 7, blob)
        out += field(2 if v1 else 100, message)
    return out
