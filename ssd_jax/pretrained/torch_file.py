"""Read the weights that `torch.save` wrote, without torch and without running any code of the file.

A `.pth` is a pickle: a program for a stack machine that may call any function it names. The machine here knows only
the instructions that a dict of tensors needs, and a table of the few functions that such a file names. It refuses
everything else; it imports nothing and calls nothing of the file. We keep our own machine, because torch is a large
dependency and because Python's would make room for as many values as a file of a few bytes claims to have.

Nothing here allocates more than the file's size: arrays are views of the file's numbers, and sizes are checked first.
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
ENCRYPTED = 0x1  # flag of a zip entry
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle in a file of torch before 1.6
LEGACY_VERSION = 1001
LARGEST_PICKLE = 1 << 20  # bytes: a pickle has names and shapes, the numbers stand elsewhere
MOST_VALUES = 1 << 18  # that a pickle may make or copy
MOST_AXES = 8
LARGEST_SIZE = (1 << 63) - 1
LONGEST_INTEGER = 128  # bits

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

# Where training scripts keep the model's weights beside their optimiser and counters, first choice first.
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "module", "ema", "model_ema")


class Storage(NamedTuple):
    """A flat array of numbers that tensors are views of."""

    key: str
    kind: str  # a key of STORAGES
    length: int  # in numbers, not bytes

    @property
    def n_bytes(self) -> int:
        """Return the size in the file."""
        return self.length * (2 if STORAGES[self.kind] == "bfloat16" else np.dtype(STORAGES[self.kind]).itemsize)


class Tensor(NamedTuple):
    """A view of a storage; strides and offset count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(NamedTuple):
    """A function or class that the pickle names; only its name."""

    text: str


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Read the model's tensors out of what a training script saved.

    Reads the zip format, and the one from before torch 1.6. Finds tensors under "model", "state_dict" and the like.

    Returns:
      read-only arrays by name; bfloat16 is widened to float32. Tensors that share their numbers share them here.

    Raises:
      ValueError: in one line that names the file, for a file that is damaged, that holds code or objects other than
        plain data and tensors, or that declares more data than it has.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP_START)) == ZIP_START
        try:
            saved, read_storage = (_open_zip if is_zip else _open_legacy)(file)
            tensors = find_tensors(saved)
            storages = dict.fromkeys(tensor.storage for tensor in tensors.values())
            numbers = {storage: _numbers(storage, read_storage(storage)) for storage in storages}
            return {name: _array(tensor, numbers[tensor.storage]) for name, tensor in tensors.items()}
        except zipfile.BadZipFile as error:
            detail = _shown(str(error))
            raise ValueError(f"{path}: a .pth must be whole; got a zip file that is damaged ({detail})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def find_tensors(saved: Any) -> dict[str, Tensor]:
    """Find the model's tensors in what a training script saved."""
    for _ in WRAPPERS:  # one wrapper may hold another
        wrapper = next((name for name in WRAPPERS if isinstance(saved, dict) and type(saved.get(name)) is dict), None)
        if wrapper is None:
            break
        saved = saved[wrapper]
    items = saved.items() if isinstance(saved, dict) else ()
    tensors = {name: value for name, value in items if isinstance(value, Tensor) and isinstance(name, str)}
    if not tensors:
        raise ValueError(f"a file of weights must have a dict of tensors by name; got {_shown(saved)} without any")
    return tensors


# The two formats: each gives what was saved, and a function that reads the bytes of a storage.

Opened = tuple[Any, Callable[[Storage], bytes]]


def _open_zip(file: BinaryIO) -> Opened:
    size = file.seek(0, io.SEEK_END)
    try:
        archive = zipfile.ZipFile(file)
    except (ValueError, EOFError, OSError, RuntimeError, struct.error) as error:  # zipfile raises all of these
        raise zipfile.BadZipFile(error) from None
    entries = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
    for name, info in entries.items():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
            how = "encrypted" if info.flag_bits & ENCRYPTED else "compressed"
            raise ValueError(f"entries must be stored as they are, as torch.save does; got {_shown(name)} {how}")
    declared = sum(info.file_size for info in entries.values())
    if declared > size:
        raise ValueError(f"entries must be no larger than the file of {size} bytes; got {declared} bytes declared")

    def read(name: str, limit: int) -> bytes:
        if name not in entries:
            raise ValueError(f"a .pth must be complete; got none of its {_shown(name)}")
        if entries[name].file_size > limit:
            raise ValueError(f"{_shown(name)} must have at most {limit} bytes; got {entries[name].file_size}")
        try:
            return archive.read(entries[name])
        except (ValueError, EOFError, OSError, RuntimeError, struct.error) as error:
            raise zipfile.BadZipFile(error) from None

    if "data.pkl" not in entries:
        raise ValueError("a zip file of weights must be one of torch.save; got one without data.pkl")
    if "byteorder" in entries and read("byteorder", 16).strip() != b"little":
        raise ValueError("the byte order must be little; got a big-endian file")
    saved, _ = load_pickle(read("data.pkl", LARGEST_PICKLE))
    return saved, lambda storage: read(f"data/{storage.key}", storage.n_bytes)


def _open_legacy(file: BinaryIO) -> Opened:
    file.seek(0)
    size = file.seek(0, io.SEEK_END)
    position, machine = 0, Machine()

    def load() -> Any:
        nonlocal position
        file.seek(position)
        value, used = load_pickle(file.read(LARGEST_PICKLE + 1), machine)
        position += used
        return value

    if load() != LEGACY_MAGIC:
        raise ValueError("a pickle of weights must be one of torch.save; got another")
    version, system = load(), load()
    if version != LEGACY_VERSION or not isinstance(system, dict):
        raise ValueError(f"the version of the format must be {LEGACY_VERSION}; got {_shown(version)}")
    if system.get("little_endian") is not True:
        raise ValueError("the byte order must be little; got a big-endian file")
    saved, keys = load(), load()
    places: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in machine.storages:
            raise ValueError(f"every storage must belong to a tensor; got {_shown(key)}, which belongs to none")
        file.seek(position)
        storage, header = machine.storages[key], file.read(8)
        if len(header) < 8 or position + 8 + storage.n_bytes > size:
            raise ValueError("a .pth must be whole; got one that is truncated in the middle of a tensor")
        (length,) = struct.unpack("<q", header)
        if length != storage.length:
            raise ValueError(f"storage {_shown(key)} must have {storage.length} numbers; got {length}")
        places[key] = position + 8
        position += 8 + storage.n_bytes

    def read_storage(storage: Storage) -> bytes:
        if storage.key not in places:
            raise ValueError(f"a .pth must be complete; got none of its storage {_shown(storage.key)}")
        file.seek(places[storage.key])
        return file.read(storage.n_bytes if places[storage.key] + storage.n_bytes <= size else 0)

    return saved, read_storage


# Arrays.


def _numbers(storage: Storage, data: bytes) -> np.ndarray:
    """Return a storage's numbers as a flat array."""
    if len(data) != storage.n_bytes:
        raise ValueError(f"storage {_shown(storage.key)} must have {storage.n_bytes} bytes; got {len(data)}")
    if STORAGES[storage.kind] == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, STORAGES[storage.kind])


def _array(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """Return a read-only view, so that many tensors of one storage take no more memory than it."""
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    if 0 in shape:
        return np.zeros(shape, numbers.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    # A stride of 0 would let a tensor have any size.
    if math.prod(shape) > numbers.size or last >= numbers.size:
        raise ValueError(f"a tensor must lie in its storage of {numbers.size} numbers; got shape {list(shape)}")
    step = numbers.itemsize
    strides = [s * step if n > 1 else step for n, s in zip(shape, strides, strict=True)]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, strides, writeable=False)


# The stack machine.


def load_pickle(data: bytes, machine: "Machine | None" = None) -> tuple[Any, int]:
    """Run the pickle at the start of `data`: plain data, and `Tensor`s.

    Returns:
      what was pickled, and how many bytes the pickle has.

    Raises:
      ValueError: in one line, for what is damaged, too large, or more than data.
    """
    machine = machine or Machine()
    machine.start()
    try:
        for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                return machine.pop(), (position or 0) + 1
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        detail = f"{type(error).__name__}: {_shown(str(error))}"
        raise ValueError(f"a pickle must be whole; got one that is damaged ({detail})") from None
    except Refused:
        raise
    except ValueError as error:  # of pickletools
        if len(data) > LARGEST_PICKLE:
            raise ValueError(f"a pickle of weights must have at most {LARGEST_PICKLE} bytes; got more") from None
        raise ValueError(f"a pickle must be whole; got one that is damaged ({_shown(str(error))})") from None
    raise ValueError("a pickle must be whole; got one that does not end")


class Refused(ValueError):
    """The pickle asks for what a file of weights has no use for."""


class Machine:
    """Pickle's stack machine, reduced to data."""

    NUMBERS = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "INT", "LONG", "FLOAT"))
    TEXTS = frozenset(
        ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING")
    )
    CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}  # noqa: RUF012
    EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}  # noqa: RUF012
    TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}  # noqa: RUF012

    def __init__(self) -> None:
        """Start with nothing counted."""
        self.storages: dict[str, Storage] = {}
        self._values = 0
        self.start()

    def start(self) -> None:
        """Empty the stack for another pickle; storages and the number of values stay."""
        self._stack, self._marks, self._memo = [], [], {}

    def pop(self) -> Any:
        """Take the last value."""
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        stack = self._stack
        self._count(1)
        if name in self.NUMBERS:
            if isinstance(argument, int) and argument.bit_length() > LONGEST_INTEGER:
                raise Refused(f"integers must have at most {LONGEST_INTEGER} bits; got {argument.bit_length()}")
            stack.append(argument)
        elif name in self.TEXTS:
            stack.append(argument)
        elif name in self.CONSTANTS:
            stack.append(self.CONSTANTS[name])
        elif name in self.EMPTY:
            stack.append(self.EMPTY[name]())
        elif name in self.TUPLES:
            stack.append(tuple(self._last_values(self.TUPLES[name])))
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._marked_values()))
        elif name == "LIST":
            stack.append(self._marked_values())
        elif name == "DICT":
            stack.append(_dict(self._marked_values()))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif name == "SETITEMS":
            pairs = _dict(self._marked_values())
            self._last(dict).update(pairs)
        elif name == "SETITEM":
            pairs = _dict(self._last_values(2))
            self._last(dict).update(pairs)
        elif name == "APPENDS":
            values = self._marked_values()
            self._last(list).extend(values)
        elif name == "APPEND":
            value = stack.pop()
            self._last(list).append(value)
        elif name == "GLOBAL":
            stack.append(_known(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack.append(_known(".".join(self._last_values(2))))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._last_values(2)
            stack.append(self._call(function, arguments))
        elif name == "BUILD":  # attributes of an ordered dict, such as the versions of a state dict
            stack.pop()
            self._last(dict)
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"a file of weights must be plain data; got a pickle with the instruction {name}")

    def _count(self, values: int) -> None:
        """Count what is made or copied, so that a list that the file names many times costs no more than others."""
        self._values += values
        if self._values > MOST_VALUES:
            raise Refused(f"a file of weights must have at most {MOST_VALUES} values; got more")

    def _last_values(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _marked_values(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _last(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise TypeError(f"{_shown(self._stack[-1])} in place of a {kind.__name__}")
        return self._stack[-1]

    def _storage(self, reference: Any) -> Storage:
        """Read ("storage", kind, key, device, length), with a sixth part in the legacy format."""
        if type(reference) is not tuple or len(reference) not in (5, 6):
            raise Refused(f"a storage must be a tuple of 5 or 6; got {_shown(reference)}")
        word, kind, key, _, length, *_ = reference
        kind = kind.text.rpartition(".")[2] if isinstance(kind, Name) else ""
        if word != "storage" or kind not in STORAGES or not isinstance(key, str) or not _is_size(length):
            raise Refused(f"a storage must have a type, a key and a length; got {', '.join(map(_shown, reference))}")
        storage = Storage(key, kind, length)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"a storage must have one type and one length; got {_shown(key)} with two")
        return storage

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or function.text not in CALLS or type(arguments) is not tuple:
            raise TypeError("a call of something other than a function")
        self._count(len(arguments) + sum(len(a) for a in arguments if isinstance(a, list | tuple)))
        return CALLS[function.text](*arguments)


def _known(name: str) -> Name:
    module, _, last = name.rpartition(".")
    if name in CALLS or (module == "torch" and last in STORAGES):
        return Name(name)
    raise Refused(f"a file of weights must hold tensors and plain data only; got {_shown(name)}, which was not run")


def _dict(values: list[Any]) -> dict[Any, Any]:
    """Make a dict of keys and values that take turns. Keys of other types could take for ever to hash."""
    for key in values[::2]:
        if not isinstance(key, str | int):
            raise Refused(f"a key of a dict must be text or a number; got {_shown(key)}")
    return dict(zip(values[::2], values[1::2], strict=True))


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    values = []
    for key, value in pairs:
        values += key, value
    return _dict(values)


def _tuple(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError("a size of something other than a list")
    return tuple(values)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    listed = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if not listed or len(shape) != len(strides) or len(shape) > MOST_AXES:
        raise Refused(f"a tensor must have a storage, and a size and a stride for each of at most {MOST_AXES} axes")
    if not all(map(_is_size, (offset, *shape, *strides))):
        raise Refused("offset, sizes and strides of a tensor must be from 0 to 2^63 - 1; got others")
    return Tensor(storage, offset, shape, strides)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_SIZE


def _shown(value: Any) -> str:
    """Show short texts and numbers; of everything else the type, since values of a file may be of any size."""
    if isinstance(value, str):
        return repr(value if len(value) <= 100 else value[:100] + "...")
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) <= LARGEST_SIZE):
        return repr(value)
    return f"something of type {type(value).__name__}"


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": _tuple,
}
