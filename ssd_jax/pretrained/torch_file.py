"""Read what `torch.save` wrote, without torch and without running any of it.

A `.pth` is a pickle, a program for a stack machine that may call any function it names. The machine here knows the
instructions that a dict of tensors needs, and a table of the few functions that such a file names; everything else is
refused. Nothing is imported and nothing of the file is called.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of torch before 1.6
LEGACY_VERSION = 1001
LARGEST_PICKLE = 1 << 20  # bytes; a pickle has names and shapes, not numbers
MOST_VALUES = 1 << 20  # in what was saved, counting a shared list each time it is met

# Little-endian, as torch writes on every machine of today.
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class Storage(NamedTuple):
    """A flat run of numbers that tensors are cut from."""

    key: str
    kind: str  # a key of STORAGES
    length: int  # in numbers, not bytes


class Tensor(NamedTuple):
    """A view of a storage; strides and offset count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(NamedTuple):
    """A function or class that the pickle names; only a name."""

    text: str


def read_torch(path: Path) -> Any:
    """Return what was saved in `path`, with NumPy arrays in place of tensors; bfloat16 is widened to float32.

    Reads the zip format, and the one from before torch 1.6.

    Raises:
      ValueError: in one line, for a file that is damaged, holds code or objects other than plain data and tensors,
        or declares more data than it has.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_START)) == ZIP_START:
            return _read_zip(path)
        file.seek(0)
        return _read_legacy(path, file)


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
            _check_sizes(path, list(entries.values()))
            if "data.pkl" not in entries:
                raise ValueError(f"{path} is a zip file but not one of torch.save: it has no data.pkl")
            if "byteorder" in entries and archive.read(entries["byteorder"]).strip() != b"little":
                raise ValueError(f"the byte order of a file must be little, got a big-endian one, {path}")

            def storage_bytes(storage: Storage) -> bytes:
                name = f"data/{storage.key}"
                if name not in entries:
                    raise ValueError(f"{path} is incomplete: it has no {name}")
                return archive.read(entries[name])

            saved = load_pickle(io.BytesIO(archive.read(entries["data.pkl"])), path)
            return _with_arrays(saved, storage_bytes, path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from None


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """torch.save does not compress, so that a file can hold no more than its size on the disk."""
    for info in entries:
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"torch.save stores without compression, got a compressed entry {info.filename} in {path}"
            )
    declared, size = sum(info.file_size for info in entries), path.stat().st_size
    if declared > size:
        raise ValueError(f"{path} has {size} bytes but declares {declared}")


def _read_legacy(path: Path, file: BinaryIO) -> Any:
    if load_pickle(file, path) != LEGACY_MAGIC:
        raise ValueError(f"{path} is a pickle, but not one of torch.save")
    version, system = load_pickle(file, path), load_pickle(file, path)
    if version != LEGACY_VERSION or not isinstance(system, dict):
        raise ValueError(f"the format's version must be {LEGACY_VERSION}, got {version} in {path}")
    if system.get("little_endian") is not True:
        raise ValueError(f"the byte order of a file must be little, got a big-endian one, {path}")
    saved = load_pickle(file, path)
    keys = load_pickle(file, path)
    storages: dict[str, Storage] = {}
    _replace(saved, lambda tensor: storages.setdefault(tensor.storage.key, tensor.storage), path)
    raw = {}
    for key in keys if isinstance(keys, list) else []:
        if key not in storages:
            raise ValueError(f"{path} has numbers that belong to no tensor, {key!r}")
        (length,) = struct.unpack("<q", _exactly(file, 8, path))
        if length != storages[key].length:
            raise ValueError(f"{path} is damaged: storage {key} has {length} numbers and {storages[key].length}")
        raw[key] = _exactly(file, length * _item_size(storages[key].kind), path)

    def storage_bytes(storage: Storage) -> bytes:
        if storage.key not in raw:
            raise ValueError(f"{path} is incomplete: it has no storage {storage.key}")
        return raw[storage.key]

    return _with_arrays(saved, storage_bytes, path)


def _exactly(file: BinaryIO, length: int, path: Path) -> bytes:
    data = file.read(length) if 0 <= length <= path.stat().st_size else b""
    if len(data) != length:
        raise ValueError(f"{path} is truncated or damaged: it ends in the middle of a tensor")
    return data


def _item_size(kind: str) -> int:
    return 2 if STORAGES[kind] == "bfloat16" else np.dtype(STORAGES[kind]).itemsize


def _replace(saved: Any, array: Callable[[Tensor], Any], path: Path) -> Any:
    """Copy nested containers with `array(tensor)` in place of each tensor."""
    met = 0

    def replace(value: Any) -> Any:
        nonlocal met
        met += 1
        if met > MOST_VALUES:
            raise ValueError(f"{path} is not a file of weights: it has over {MOST_VALUES} values")
        if isinstance(value, Tensor):
            return array(value)
        if isinstance(value, dict):
            return {key: replace(item) for key, item in value.items()}
        return [replace(item) for item in value] if isinstance(value, list) or type(value) is tuple else value

    try:
        return replace(saved)
    except RecursionError:
        raise ValueError(f"{path} is not a file of weights: it nests too deep") from None


def _with_arrays(saved: Any, storage_bytes: Callable[[Storage], bytes], path: Path) -> Any:
    """Replace tensors by arrays; tensors that share a storage read it once."""
    flat: dict[Storage, np.ndarray] = {}

    def array(tensor: Tensor) -> np.ndarray:
        storage, offset, shape, strides = tensor
        if storage not in flat:
            flat[storage] = _numbers(storage, storage_bytes(storage), path)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        # A view with stride 0 could stand for any amount of memory.
        if math.prod(shape) > storage.length or (math.prod(shape) and last >= storage.length):
            raise ValueError(
                f"{path} is damaged: a tensor of shape {list(shape)} leaves its {storage.length} numbers"
            )
        numbers = flat[storage]
        step = numbers.itemsize
        view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, [s * step for s in strides])
        return view.copy()

    return _replace(saved, array, path)


def _numbers(storage: Storage, data: bytes, path: Path) -> np.ndarray:
    if len(data) != storage.length * _item_size(storage.kind):
        raise ValueError(
            f"{path} is damaged: storage {storage.key} has {len(data)} bytes for {storage.length} numbers"
        )
    if STORAGES[storage.kind] == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, STORAGES[storage.kind])


# The stack machine.


def load_pickle(file: BinaryIO, path: Path) -> Any:
    """Run one pickle of `file`: plain data, and `Tensor`s. The file then stands at its end."""
    machine = Machine(path)
    start = file.tell()
    try:
        for opcode, argument, position in pickletools.genops(file):
            if position - start > LARGEST_PICKLE:
                raise ValueError(f"a pickle of weights has at most {LARGEST_PICKLE} bytes, got more in {path}")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is truncated or damaged: {error!r}") from None
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is truncated, damaged or no file of weights: {error}") from None
    raise ValueError(f"{path} is truncated or damaged: its pickle does not end")


class Machine:
    """Pickle's stack machine, reduced to data."""

    PUSHED = frozenset(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "INT", "LONG", "FLOAT"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
        )
    )
    CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}  # noqa: RUF012
    EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}  # noqa: RUF012
    TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        """Start with an empty stack; `path` is for messages."""
        self._path, self._stack, self._marks, self._memo = path, [], [], {}

    def pop(self) -> Any:
        """Take the last value."""
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        stack = self._stack
        if name in self.PUSHED:
            stack.append(argument)
        elif name in self.CONSTANTS:
            stack.append(self.CONSTANTS[name])
        elif name in self.EMPTY:
            stack.append(self.EMPTY[name]())
        elif name in self.TUPLES:
            count = self.TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._arguments()))
        elif name == "LIST":
            stack.append(list(self._arguments()))
        elif name == "DICT":
            stack.append(_pairs(self._arguments()))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif name == "SETITEMS":
            arguments = self._arguments()
            self._last(dict).update(_pairs(arguments))
        elif name == "SETITEM":
            arguments = stack[-2:]
            del stack[-2:]
            self._last(dict).update(_pairs(arguments))
        elif name == "APPENDS":
            arguments = self._arguments()
            self._last(list).extend(arguments)
        elif name == "APPEND":
            value = stack.pop()
            self._last(list).append(value)
        elif name == "GLOBAL":
            stack.append(self._known(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [self._known(".".join(stack[-2:]))]
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            function, arguments = stack[-2:]
            stack[-2:] = [self._call(function, arguments)]
        elif name == "BUILD":  # attributes of an ordered dict, such as a state dict's versions
            stack.pop()
            self._last(dict)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"{self._path} is not a file of weights: its pickle has the instruction {name}")

    def _arguments(self) -> list[Any]:
        start = self._marks.pop()
        arguments = self._stack[start:]
        del self._stack[start:]
        return arguments

    def _last(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise TypeError(f"a {kind.__name__} was expected")
        return self._stack[-1]

    def _known(self, name: str) -> Name:
        module, _, last = name.rpartition(".")
        if name in CALLS or (module == "torch" and last in STORAGES):
            return Name(name)
        raise ValueError(
            f"a file of weights may hold tensors and plain data only, got {name} in {self._path}, which was not run"
        )

    def _storage(self, reference: Any) -> Storage:
        word, kind, key, _, length, *_ = reference
        kind = kind.text.rpartition(".")[2]
        if word != "storage" or kind not in STORAGES or not isinstance(length, int) or length < 0:
            raise ValueError(f"{self._path} is damaged: it has a storage {reference}")
        return Storage(str(key), kind, length)

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if not isinstance(function, Name) or function.text not in CALLS:
            raise TypeError("something other than a function was called")
        return CALLS[function.text](*arguments)


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, str | int) for key in values[::2]):
        raise TypeError("a key of a dict is text or a number")
    return dict(zip(values[::2], values[1::2], strict=True))


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    counts = all(isinstance(n, int) and n >= 0 for n in numbers)
    if not isinstance(storage, Storage) or not counts or len(shape) != len(strides):
        raise TypeError("a tensor has a storage, and a size of at least 0 and a stride for each axis")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): _pairs([part for pair in pairs for part in pair]),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": tuple,
}
