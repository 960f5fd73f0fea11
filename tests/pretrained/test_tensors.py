"""Files of weights are read exactly, in every format, and broken ones are refused in one line; none of them runs."""

import importlib.util
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import writers
from writers import Call, Global, Persistent, Saved, caffemodel, legacy_bytes, pth, zip_bytes

from ssd_jax.pretrained.tensors import read_tensors

LARGEST = (1 << 63) - 1

needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
needs_safetensors = pytest.mark.skipif(
    not importlib.util.find_spec("safetensors"), reason="safetensors is not installed"
)


def tensors():
    random = np.random.default_rng(0)
    shapes = {"0.weight": (4, 3, 2, 2), "0.bias": (4,), "fc.weight": (2, 5)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder, data):
    path = folder / "weights.bin"
    path.write_bytes(data)
    return path


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].shape == array.shape
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("views", [False, True])
def test_pth(tmp_path, legacy, views):
    assert_same(read_tensors(write(tmp_path, pth(tensors(), legacy=legacy, views=views))), tensors())


@pytest.mark.parametrize("legacy", [False, True])
def test_pth_of_other_types(tmp_path, legacy):
    arrays = {"half": np.float16([[1.5, -2]]), "double": np.float64([1 / 3]), "count": np.array(7, np.int64)}
    got = read_tensors(write(tmp_path, pth(arrays, legacy=legacy)))
    assert_same(got, arrays)
    assert {name: a.dtype for name, a in got.items()} == {name: a.dtype for name, a in arrays.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: {"model": d, "iteration": 120_000, "optimizer": {"state": {0: [1.0, None, True]}, "lr": 1e-3}},
        lambda d: {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in d.items()}},
        lambda d: {name: Call(Global("torch._utils", "_rebuild_parameter"), t, True, {}) for name, t in d.items()},
        lambda d: {"net": d, "acc": 0.9, "epoch": 3},
        lambda d: {"ema": d, "updates": 7},
        lambda d: {"ema": {"module": d}, "best": [1.0]},
        lambda d: {"model": d, "ema": {name: None for name in d}},
        lambda d: {f"_orig_mod.{name}": tensor for name, tensor in d.items()},
        lambda d: {"state_dict": {f"model.{name}": tensor for name, tensor in d.items()}, "hyper_parameters": {}},
        lambda d: {"net": {f"module._orig_mod.{name}": tensor for name, tensor in d.items()}},
        lambda d: {"ema": {f"module.{name}": t for name, t in d.items()} | {"n_averaged": d["0.bias"]}},
    ],
)
def test_pth_of_a_training_script(tmp_path, wrap):
    assert_same(read_tensors(write(tmp_path, pth(tensors(), wrap=wrap))), tensors())


@needs_torch
@pytest.mark.parametrize("legacy", [False, True])
def test_pth_by_torch(tmp_path, legacy):
    import torch

    arrays = tensors() | {"n": np.array(3, np.int64), "t": tensors()["0.weight"].transpose(2, 0, 3, 1)}
    state = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items() if name != "t"}
    state |= {"t": state["0.weight"].permute(2, 0, 3, 1)}  # shares its storage
    state |= {"bf16": torch.tensor([1.5, -3.0e38], dtype=torch.bfloat16)}
    module = torch.nn.Conv2d(2, 3, 1)
    path = tmp_path / "weights.pth"
    torch.save(
        {"model": state, "net": module.state_dict(), "size": state["t"].shape},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    expected = arrays | {"bf16": np.float32([1.5, state["bf16"][1].float().item()])}
    assert_same(read_tensors(path), expected)
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    assert_same(read_tensors(path), {name: t.numpy() for name, t in module.state_dict().items()})


@needs_safetensors
def test_safetensors(tmp_path):
    got = read_tensors(write(tmp_path, writers.safetensors(tensors())))
    assert_same({name: got[name] for name in tensors()}, tensors())


@needs_safetensors
@pytest.mark.parametrize(("kind", "bits"), [("F4", 4), ("F6_E2M3", 6), ("F8_E8M0", 8), ("no_such_type", 32)])
def test_a_safetensors_of_a_type_that_numpy_lacks(tmp_path, kind, bits):
    # Eight numbers of so many bits: a whole number of bytes of each type.
    header = json.dumps({"a": {"dtype": kind, "shape": [8], "data_offsets": [0, bits]}}).encode()
    refused(
        tmp_path,
        struct.pack("<Q", len(header)) + header + bytes(bits),
        "must be of a type that NumPy has|must be whole",
    )


@pytest.mark.parametrize("v1", [False, True])
def test_caffemodel(tmp_path, v1):
    arrays = {name: a for name, a in tensors().items() if not (v1 and a.ndim < 4)}
    assert_same(read_tensors(write(tmp_path, caffemodel(arrays, v1=v1))), arrays)


def test_caffemodel_pads_old_biases_with_ones(tmp_path):
    bias = np.float32([1, 2, 3])
    weight = np.zeros((3, 1, 1, 1), np.float32)
    got = read_tensors(write(tmp_path, caffemodel({"c.weight": weight, "c.bias": bias}, v1=True)))
    np.testing.assert_array_equal(got["c.bias"], bias.reshape(1, 1, 1, 3))


# Broken files. Each is refused by one line that names the file.


def refused(folder, data, message):
    path = write(folder, data)
    with pytest.raises(ValueError, match=message) as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth: no such file of weights"):
        read_tensors(tmp_path / "nothing.pth")


def test_an_empty_file(tmp_path):
    refused(tmp_path, b"", "got an empty file")


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize(
    "data",
    [pth(tensors()), pth(tensors(), legacy=True), caffemodel(tensors()), writers.safetensors(tensors())],
    ids=["zip", "legacy", "caffe", "safetensors"],
)
def test_a_truncated_file(tmp_path, data, fraction):
    refused(tmp_path, data[: int(len(data) * fraction)], "must be (a )?whole|must have .* got|install safetensors")


def test_every_truncation_of_a_legacy_file_is_refused(tmp_path):
    data = pth({"a": np.zeros(2, np.float32)}, legacy=True)
    for length in range(1, len(data)):
        refused(tmp_path, data[:length], "must be (a )?whole")


def test_any_changed_byte_of_a_legacy_file_is_read_or_refused(tmp_path):
    data = pth({"a": np.zeros(2, np.float32), "b": np.zeros((2, 1), np.float32)}, legacy=True)
    random = np.random.default_rng(0)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= int(random.integers(1, 256))
        try:
            read_tensors(write(tmp_path, broken))
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xe0 an image, not weights", "must be a whole .caffemodel"),
        (b"layer { name: 'conv1_1' }", "must be a whole .caffemodel"),
        (b"\x89HDF\r\n", "HDF5"),
        (pickle.dumps([1, 2]), "must be one of torch.save"),
        (pth({}), "must have a dict of tensors by name; got something of type dict without any"),
        (pth(tensors(), wrap=lambda d: list(d.values())), "by name; got something of type list without any"),
        (pth(tensors(), wrap=lambda d: dict(enumerate(d.values()))), "got something of type dict without any"),
        (writers.field(1, b"an empty net"), "without weights"),
    ],
)
def test_what_is_no_model(tmp_path, data, message):
    refused(tmp_path, data, message)


def test_a_zip_of_something_else(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme/text", "hello")
    refused(tmp_path, file.getvalue(), "got one without data.pkl")


@pytest.mark.parametrize("data", [zip_bytes({}, {}, byteorder="big"), legacy_bytes({}, {}, little_endian=False)])
def test_a_big_endian_file(tmp_path, data):
    refused(tmp_path, data, "byte order must be little; got a big-endian file")


# A pickle is a program. None of it may run, whatever it calls and wherever it stands.

EVIL = [Global("os", "system"), Global("builtins", "eval"), Global("torch", "load"), Global("collections", "Counter")]


@pytest.mark.parametrize("function", EVIL, ids=lambda f: f"{f.module}.{f.name}")
@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(tmp_path, function, legacy):
    saved = Saved(tensors())
    proof = tmp_path / "it-ran"
    call = Call(function, f"__import__('pathlib').Path({str(proof)!r}).touch()")
    data = (legacy_bytes if legacy else zip_bytes)(saved.description | {"x": call}, saved.storages)
    refused(tmp_path, data, rf"plain data only; got '{function.module}\.{function.name}', which was not run")
    assert not proof.exists()


def test_a_reduction_by_the_libraries_own_pickler_is_refused_and_not_run(tmp_path):
    proof = tmp_path / "it-ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (proof,)

    for protocol in range(6):
        with pytest.raises(ValueError):
            read_tensors(write(tmp_path, pickle.dumps({"a": Evil()}, protocol=protocol)))
    assert not proof.exists()
    pickle.loads(pickle.dumps(Evil()))  # the proof would be there
    assert proof.exists()


def test_only_names_in_the_table_are_called(tmp_path):
    # The name of a storage is known, but is nothing to call.
    call = Call(Global("torch", "FloatStorage"), 1 << 40)
    refused(tmp_path, zip_bytes({"x": call}, {}), "damaged")


@pytest.mark.parametrize("instruction", [b"\x81", b"i", b"o", b"P0\n", b"\x82\x01", b"\x97"])
def test_instructions_that_weights_do_not_need_are_refused(tmp_path, instruction):
    data = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"\x80\x02" + b"(cos\nsystem\n" + instruction + b"."
    with pytest.raises(ValueError):
        read_tensors(write(tmp_path, data))


# Files that would fill the memory.


def test_a_compressed_zip_is_refused_before_it_is_unpacked(tmp_path):
    data = zip_bytes({}, {"0": np.zeros(10_000_000, np.int8)}, compression=zipfile.ZIP_DEFLATED)
    assert len(data) < 20_000
    refused(tmp_path, data, "entries must be stored as they are, .*got 'data.pkl' compressed")


def test_a_zip_that_declares_more_than_it_has(tmp_path):
    data = pth({"a": np.zeros(4, np.float32)})
    # In the directory at the end, claim 2^31 bytes for an entry that has 16.
    start = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 1)
    sizes = struct.pack("<II", 1 << 31, 1 << 31)
    message = "no larger than the file of .* got 2147483794 bytes declared"
    refused(tmp_path, data[: start + 20] + sizes + data[start + 28 :], message)


def storage(length, key="0"):
    return Persistent("storage", Global("torch", "FloatStorage"), key, "cpu", length)


def tensor(offset, shape, strides, of=None):
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), of or storage(4), offset, shape, strides, False, {})


@pytest.mark.parametrize("write_as", [zip_bytes, legacy_bytes])
@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (0, (1 << 40,), (0,), "must lie in its storage of 4 numbers"),
        (0, (5,), (1,), "must lie in its storage"),
        (3, (2,), (1,), "must lie in its storage"),
        (0, (2, 2), (2, 2), "must lie in its storage"),
        (0, (2, 2), (1 << 62, 1), "must lie in its storage"),
        (0, (-2, -2), (1, 1), "from 0 to 2"),
        (0, (2,), (1 << 63,), "from 0 to 2"),
        (1 << 63, (2,), (1,), "from 0 to 2"),
        (0, ((1 << 2000) - 1,), (1,), "at most 128 bits"),
        (0, (2,), (1, 1), "a size and a stride for each of at most 8 axes"),
        (0, (1,) * 9, (1,) * 9, "at most 8 axes"),
        (0, (1 << 62, 0), (1, 1), "Maximum allowed|too (big|large)"),
        (0, [2], [1], "must have a storage, and a size and a stride"),
    ],
)
def test_a_tensor_that_leaves_its_storage(tmp_path, offset, shape, strides, message, write_as):
    data = write_as({"a": tensor(offset, shape, strides)}, {"0": np.zeros(4, np.float32)})
    refused(tmp_path, data, message)


def test_a_stride_of_an_axis_of_one_is_free(tmp_path):
    numbers = np.arange(4, dtype=np.float32)
    data = zip_bytes({"a": tensor(1, (1, 3), (LARGEST, 1)), "b": tensor(4, (0, 2), (5, 5))}, {"0": numbers})
    got = read_tensors(write(tmp_path, data))
    np.testing.assert_array_equal(got["a"], [[1, 2, 3]])
    assert got["b"].shape == (0, 2)


def test_a_storage_larger_than_its_numbers(tmp_path):
    huge = tensor(0, (1 << 40,), (1,), storage(1 << 40))
    for write_as, message in ((zip_bytes, "must have 4398046511104 bytes; got 16"), (legacy_bytes, "truncated")):
        refused(tmp_path, write_as({"a": huge}, {"0": np.zeros(4, np.float32)}), message)


def test_a_storage_of_two_lengths(tmp_path):
    both = {"a": tensor(0, (4,), (1,)), "b": tensor(0, (2,), (1,), storage(2))}
    for write_as in (zip_bytes, legacy_bytes):
        refused(tmp_path, write_as(both, {"0": np.zeros(4, np.float32)}), "one type and one length; got '0' with two")


def changed_directory(data, offset, new):
    """Overwrite bytes in the first entry of a zip file's directory, and in its local header."""
    start = data.index(b"PK\x01\x02")
    data = data[: start + offset] + new + data[start + offset + len(new) :]
    return data[: offset - 2] + new + data[offset - 2 + len(new) :]


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (8, b"\x01", "got 'data.pkl' encrypted"),
        (10, b"\x63", "got 'data.pkl' compressed"),  # AES
        (10, b"\xff\xff", "got 'data.pkl' compressed"),
        (6, b"\xff\xff", "got a zip file that is damaged .*zip file version"),
    ],
)
def test_a_zip_of_an_unknown_kind(tmp_path, offset, new, message):
    refused(tmp_path, changed_directory(pth(tensors()), offset, new), message)


@pytest.mark.parametrize("name", ["data\n.pkl", "\x00data.pkl", "data/\u202e", "../../data.pkl", "", "\x1b[2J"])
def test_a_zip_with_strange_names(tmp_path, name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"weights/{name}", b"x")
        archive.writestr(f"weights/data.pkl{name}", writers.pickled({"a": tensor(0, (2,), (1,), storage(2, name))}))
    refused(tmp_path, file.getvalue(), "must be|must have|complete")


def test_names_that_no_line_can_show(tmp_path):
    for name in ("a\nb", "\x00", "\x1b[31mred"):
        refused(tmp_path, pth({name: np.zeros(2, np.float32)}), "names of tensors must be printable")


def test_a_name_of_very_many_prefixes(tmp_path):
    data = pth({"module." * 5000 + "a": np.zeros(2, np.float32)})
    assert list(read_tensors(write(tmp_path, data))) == ["a"]


def legacy_pickle(pickled):
    return legacy_bytes({}, {}).replace(writers.pickled({}), pickled, 1)


def zip_of_pickle(pickled):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", pickled)
    return file.getvalue()


def doubled(start, end, depth, copies=2, use=b""):
    """Nest containers, of which each holds the one before `copies` times: copies ** depth values in few bytes."""
    levels = [b"\x80\x02)q\x00"]
    for level in range(depth):
        levels.append(start + b"h%c" % level * copies + end + b"q%c" % (level + 1))
    return b"".join(levels) + use + b"."


SIZE, ORDERED = b"ctorch\nSize\n", b"ccollections\nOrderedDict\n"
PAIR = b"X\x01\x00\x00\x00aN\x86"  # ("a", None)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        # Nested containers, that would take for ever to copy, to show or to hash.
        (doubled(b"](", b"e", 60), "type list without any"),
        (doubled(b"(", b"t", 60, use=b"Q"), "a storage must be a tuple of 5 or 6; got something of type tuple"),
        (doubled(b"(", b"t", 9, 30, b"q\x00(X\x07\x00\x00\x00storageh\x00h\x00h\x00h\x00tQ"), "got 'storage', some"),
        (b"\x80\x02}" + doubled(b"(", b"t", 60, use=b"Ns")[2:], "a key of a dict must be text or a number; got some"),
        (doubled(b"(", b"t", 60, use=b"Ks\x86R"), "something other than a function"),
        (b"\x80\x02" + b"](" * 20_000 + b"e" * 20_000 + b".", "type list without any"),
        (b"\x80\x02]q\x00h\x00a.", "type list without any"),  # a list that holds itself
        (b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.", "type dict without any"),  # its own model
        (b"\x80\x02}" + b"(" * 5000 + b"t" * 5000 + b"Ns.", "a key of a dict must be text or a number"),
        # A long list that is copied again and again.
        (b"\x80\x02](" + b"K\x00" * 9999 + b"eq\x00" + (SIZE + b"h\x00\x85R") * 40_000 + b".", "262144 values"),
        (b"\x80\x02](" + PAIR * 9999 + b"eq\x00" + (ORDERED + b"h\x00\x85R") * 30_000 + b".", "262144 values"),
        (b"\x80\x02(" + b"K\x00" * 9999 + b"tq\x00" + (ORDERED + b"h\x00R") * 30_000 + b".", "262144 values|damaged"),
        (b"\x80\x02(" + b"K\x00" * 9999 + b"tq\x00" + b"h\x00Q" * 30_000 + b".", "a tuple of 5 or 6"),
        # Many values, and long ones.
        (b"\x80\x02" + b"}" * (1 << 19) + b".", "at most 262144 values"),
        (b"\x80\x02" + b"X\x00\x00\x10\x00" + b"a" * (1 << 20) + b".", "at most 1048576 bytes"),
        (b"\x80\x02\x8b\x00\x00\x08\x00" + b"\x7f" * (1 << 19) + b".", "at most 128 bits; got 4194303"),
        (b"\x80\x02I" + b"7" * 100_000 + b"\n.", "must be whole"),
        # Lengths beyond the file's end; Python's own machine would make room for 2^32 values.
        (b"\x80\x02Nr\xff\xff\xff\xff.", "got None without any"),
        (b"\x80\x02X\xff\xff\xff\x7f", "must be whole"),
        (b"\x80\x02\x8d\x00\x00\x00\x00\x02\x00\x00\x00", "must be whole"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f", "must be whole"),
    ],
)
def test_a_pickle_that_would_take_the_machine(tmp_path, pickled, message):
    for data in (legacy_pickle(pickled), zip_of_pickle(pickled)):
        assert pickled in data
        tracemalloc.start()
        refused(tmp_path, data, message)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100e6


def test_a_tensor_that_is_listed_many_times_is_there_once(tmp_path):
    one = Call(Global("torch._utils", "_rebuild_tensor_v2"), storage(25_000), 0, (25_000,), (1,), False, {})
    other = tensor(0, (12_500,), (2,), storage(25_000))
    saved = {f"{i}.weight": one if i % 2 else other for i in range(5000)}
    data = zip_bytes(saved, {"0": np.arange(25_000, dtype=np.float32)})
    path = write(tmp_path, data)
    tracemalloc.start()
    got = read_tensors(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6  # 5,000 copies are 375 MB
    assert len(got) == 5000
    np.testing.assert_array_equal(got["7.weight"], np.arange(25_000))
    np.testing.assert_array_equal(got["8.weight"], np.arange(0, 25_000, 2))


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (writers.field(7, writers.field(1, writers.varint(1 << 69) * 100_000)), "a blob of more than 8 axes"),
        (writers.field(7, writers.field(1, (1 << 62)) * 100_000), "a blob of more than 8 axes"),
        (writers.field(7, writers.field(1, writers.varint(1 << 69))), "a side beyond 2"),
        (writers.field(7, writers.field(1, 1 << 63) + writers.field(1, 0)), "a side beyond 2"),  # -1 * 0
        (b"".join(writers.field(i, 1 << 69) for i in (1, 2, 3, 4)), "a side beyond 2"),
        (writers.field(1, 7) * 300_000, "more than 262144 fields"),
        (writers.field(5, b"abc"), "ends in the middle of a number"),
        (writers.field(7, writers.field(1, b"")) + writers.field(5, b"abcd"), r"of shape \[2\] with 1 numbers"),
    ],
)
def test_a_caffemodel_that_would_take_the_machine(tmp_path, blob, message):
    data = writers.field(100, writers.field(1, b"conv\n") + writers.field(7, blob))
    tracemalloc.start()
    refused(tmp_path, data, message)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6
