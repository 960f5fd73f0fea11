"""Files of weights are read exactly, in every format, and broken ones are refused in one line; none of them runs."""

import importlib.util
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import writers
from writers import Call, Global, Persistent, Saved, caffemodel, legacy_bytes, pth, zip_bytes

from ssd_jax.pretrained.files import read_tensors

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
    with pytest.raises(FileNotFoundError, match=r"no such file of weights: .*nothing\.pth"):
        read_tensors(tmp_path / "nothing.pth")


def test_an_empty_file(tmp_path):
    refused(tmp_path, b"", "is empty")


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize(
    "data",
    [pth(tensors()), pth(tensors(), legacy=True), caffemodel(tensors()), writers.safetensors(tensors())],
    ids=["zip", "legacy", "caffe", "safetensors"],
)
def test_a_truncated_file(tmp_path, data, fraction):
    refused(tmp_path, data[: int(len(data) * fraction)], "truncated|damaged|incomplete|install safetensors")


def test_every_truncation_of_a_legacy_file_is_refused(tmp_path):
    data = pth({"a": np.zeros(2, np.float32)}, legacy=True)
    for length in range(1, len(data)):
        refused(tmp_path, data[:length], "truncated|damaged|incomplete|not a file of weights")


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
        (b"\xff\xd8\xff\xe0 an image, not weights", "not a file of weights"),
        (b"layer { name: 'conv1_1' }", "not a file of weights"),
        (b"\x89HDF\r\n", "HDF5"),
        (pickle.dumps([1, 2]), "not one of torch.save"),
        (pth({}), "no tensors in it"),
        (pth(tensors(), wrap=lambda d: list(d.values())), "no tensors in it"),
        (writers.field(1, b"an empty net"), "no weights in it"),
    ],
)
def test_what_is_no_model(tmp_path, data, message):
    refused(tmp_path, data, message)


def test_a_zip_of_something_else(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme/text", "hello")
    refused(tmp_path, file.getvalue(), "no data.pkl")


@pytest.mark.parametrize("data", [zip_bytes({}, {}, byteorder="big"), legacy_bytes({}, {}, little_endian=False)])
def test_a_big_endian_file(tmp_path, data):
    refused(tmp_path, data, "byte order of a file must be little, got a big-endian one")


# A pickle is a program. None of it may run, whatever it calls and wherever it stands.

EVIL = [Global("os", "system"), Global("builtins", "eval"), Global("torch", "load"), Global("collections", "Counter")]


@pytest.mark.parametrize("function", EVIL, ids=lambda f: f"{f.module}.{f.name}")
@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(tmp_path, function, legacy):
    saved = Saved(tensors())
    proof = tmp_path / "it-ran"
    call = Call(function, f"__import__('pathlib').Path({str(proof)!r}).touch()")
    data = (legacy_bytes if legacy else zip_bytes)(saved.description | {"x": call}, saved.storages)
    refused(tmp_path, data, rf"plain data only, got {function.module}\.{function.name} in .* was not run")
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
    refused(tmp_path, data, "without compression")


def test_a_zip_that_declares_more_than_it_has(tmp_path):
    data = pth({"a": np.zeros(4, np.float32)})
    # The sizes of an entry of the directory at the end: 16 bytes of numbers said to be 2^31.
    start = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 1)
    sizes = struct.pack("<II", 1 << 31, 1 << 31)
    refused(tmp_path, data[: start + 20] + sizes + data[start + 28 :], "bytes but declares")


def storage(length):
    return Persistent("storage", Global("torch", "FloatStorage"), "0", "cpu", length)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (1 << 40,), (0,)),
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (0, (2, 2), (2, 2)),
        (0, (-2, -2), (1, 1)),
        (0, (2,), (1, 1)),
    ],
)
def test_a_tensor_that_leaves_its_storage(tmp_path, offset, shape, strides):
    tensor = Call(Global("torch._utils", "_rebuild_tensor_v2"), storage(4), offset, shape, strides, False, {})
    data = zip_bytes({"a": tensor}, {"0": np.zeros(4, np.float32)})
    refused(tmp_path, data, "damaged")


def test_a_storage_larger_than_its_numbers(tmp_path):
    tensor = Call(Global("torch._utils", "_rebuild_tensor_v2"), storage(1 << 40), 0, (1 << 40,), (1,), False, {})
    for write_as in (zip_bytes, legacy_bytes):
        refused(tmp_path, write_as({"a": tensor}, {"0": np.zeros(4, np.float32)}), "damaged")


def legacy_pickle(pickled):
    return legacy_bytes({}, {}).replace(writers.pickled({}), pickled, 1)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        # Lists of the list before, twice, 60 deep: 2^60 values.
        (
            b"\x80\x02]q\x00"
            + b"".join(b"](h%bh%be" % (b"%c" % i, b"%c" % i) + b"q%c" % (i + 1) for i in range(60))
            + b".",
            "over",
        ),
        (b"\x80\x02" + b"](" * 20_000 + b"e" * 20_000 + b".", "nests too deep"),
        (b"\x80\x02]q\x00h\x00a.", "nests too deep"),  # a list that holds itself
        (b"\x80\x02}" + b"(" * 5000 + b"t" * 5000 + b"Ns.", "a key of a dict is text or a number"),
        (b"\x80\x02" + b"}" * (1 << 20) + b".", "a pickle of weights has at most"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "no tensors in it"),  # Python's own machine would make room for 2^32 values
    ],
)
def test_a_pickle_that_would_fill_the_memory(tmp_path, pickled, message):
    data = legacy_pickle(pickled)
    assert pickled in data
    refused(tmp_path, data, message)
