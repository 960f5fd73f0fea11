"""A room imports only rooms below it, and box needs nothing but jax and numpy."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ssd_jax"

# From the bottom to the top: a room imports only rooms before it.
ORDER = [
    *("lazy", "moved", "extras", "sides", "files", "fast_cpu", "config_file", "command"),
    *("box", "loss", "preprocess", "metrics", "data", "augment", "model", "parallel", "checkpoint"),
    *("inference", "training", "pretrained", "export", "report", "loop", "commands", "cli", "__main__"),
    *("datasets", "batching", "classes"),  # old names of rooms: nothing may import them
]
# Within box.
BOX_ORDER = ["numerics", "geometry", "codec", "matching", "nms", "priors"]
HEAVY = ("flax", "optax", "orbax", "grain", "cv2", "tensorflow_datasets", "jaxtyping", "chex")
# A name that only one room may use.
ONLY_IN = {"orbax": "checkpoint", "pmap": "parallel"}
# jax's functions about devices and processes: only `parallel` calls them, as `jax.NAME`.
DEVICES = (
    *("process_index", "process_count", "process_indices", "default_backend"),
    *("devices", "device_count", "local_devices", "local_device_count"),
)


def rooms():
    return sorted(path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())


def sources(room):
    single = PACKAGE / f"{room}.py"
    return [single] if single.exists() else sorted((PACKAGE / room).rglob("*.py"))


def imported(source, package=""):
    """Return the dotted names of everything that the code imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {package}: write the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def words(source):
    """Return every name and attribute that the code uses, and the first parts of the names it imports."""
    found = {name.split(".")[0] for name in imported(source)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def violations(room, names, order):
    """Return the rooms above `room` in `order` that are among dotted names of the package."""
    known = {name.split(".")[1] for name in names if name.startswith("ssd_jax.") and name.count(".")}
    return sorted(other for other in known & set(order) - {room} if order.index(other) > order.index(room))


@pytest.mark.parametrize("room", [room for room in rooms() if room != "__init__"])
def test_a_room_imports_only_rooms_below_it(room):
    assert room in ORDER, f"{room} has no place in the order of rooms"
    for path in sources(room):
        names = imported(path.read_text(), path)
        assert violations(room, names, ORDER) == [], path


@pytest.mark.parametrize("name", ONLY_IN)
def test_only_one_room_uses_a_name(name):
    users = {room for room in rooms() for path in sources(room) if name in words(path.read_text())}
    assert users <= {ONLY_IN[name]}


def device_functions(source):
    """Return the names of DEVICES that the code takes from jax."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in DEVICES
        if isinstance(node.value, ast.Name) and node.value.id == "jax"
    } | {name.split(".")[1] for name in imported(source) if name.startswith(tuple(f"jax.{name}" for name in DEVICES))}


@pytest.mark.parametrize("room", [room for room in rooms() if room != "parallel"])
def test_only_parallel_calls_the_functions_about_devices_and_processes(room):
    assert {path: names for path in sources(room) if (names := device_functions(path.read_text()))} == {}


def test_the_functions_about_devices_are_found():
    assert device_functions("n = jax.local_device_count() + other.devices()") == {"local_device_count"}
    assert device_functions("from jax import device_count\njax.device_get(x)") == {"device_count"}


def test_the_words_of_a_module_come_from_its_code_and_not_from_its_comments():
    assert words("import orbax.checkpoint as o  # pmap\njax.vmap(f)") == {"orbax", "jax", "vmap", "f"}


@pytest.mark.parametrize("module", BOX_ORDER)
def test_a_module_of_box_imports_only_modules_below_it(module):
    names = imported((PACKAGE / "box" / f"{module}.py").read_text())
    used = {name.split(".")[2] for name in names if name.startswith("ssd_jax.box.")}
    assert used <= set(BOX_ORDER[: BOX_ORDER.index(module)])


@pytest.mark.parametrize("script", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_a_script_imports_only_rooms_and_no_array_library(script):
    names = imported(script.read_text())
    inside = {name.split(".")[1] for name in names if name.startswith("ssd_jax.")}
    assert inside <= set(ORDER)
    assert not {name.split(".")[0] for name in names} & {"jax", "numpy", "flax", "optax", "orbax", "grain", "cv2"}


def test_no_room_imports_a_script_or_a_config():
    outside = {path.stem for path in ROOT.glob("*.py")} | {"configs", "tests", "benchmarks"}
    for room in rooms():
        for path in sources(room):
            assert not {name.split(".")[0] for name in imported(path.read_text())} & outside, path


def test_an_import_of_a_room_above_is_found():
    names = imported("from ssd_jax.loop import train\nimport ssd_jax.box.nms\ndef f():\n    import ssd_jax.model")
    assert violations("loss", names, ORDER) == ["loop", "model"]
    assert violations("loop", names, ORDER) == []


BLOCKED_IMPORT = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Block())
"""


def run(code, **environment):
    environment = os.environ | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_box_and_loss_work_with_jax_and_numpy_alone():
    result = run(
        BLOCKED_IMPORT
        + "import numpy as np\n"
        + "from ssd_jax import box, loss\n"
        + "priors = box.make_priors(box.SSD300_VOC)\n"
        + "print(len(priors), box.iou(priors[:1], priors[:2]).shape, loss.smooth_l1(np.float32(2)))\n"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["8732", "(1,", "2)", "1.5"]


@pytest.mark.parametrize("library", ["flax", "optax", "cv2"])
def test_the_block_blocks(library):
    result = run(BLOCKED_IMPORT + f"import {library}\n")
    assert result.returncode != 0
    assert f"{library} is blocked" in result.stderr


def test_importing_the_package_imports_no_library():
    code = f"import sys, ssd_jax\nprint([m for m in {('jax', 'numpy', *HEAVY)!r} if m in sys.modules])"
    assert run(code).stdout.strip() == "[]"


NO_DEVICE = {"JAX_PLATFORMS": "no_such_platform"}


def test_importing_box_and_loss_adds_only_their_own_modules_to_jax_and_numpy_and_uses_no_device():
    code = (
        "import sys, jax, jax.numpy, numpy\nbefore = set(sys.modules)\nimport ssd_jax.box, ssd_jax.loss\n"
        "print(*set(sys.modules) - before)"
    )
    result = run(BLOCKED_IMPORT + code, **NO_DEVICE)
    assert result.returncode == 0, result.stderr
    known = {*sys.stdlib_module_names, "jax", "numpy"}
    added = {name for name in result.stdout.split() if name.split(".")[0] not in known}
    assert added == {
        "ssd_jax",
        "ssd_jax.box",
        "ssd_jax.loss",
        "ssd_jax.sides",
        *(f"ssd_jax.box.{name}" for name in BOX_ORDER),
    }


def test_without_a_device_jax_computes_nothing():
    result = run("import jax.numpy\njax.numpy.zeros(1)", **NO_DEVICE)
    assert result.returncode != 0
    assert "no_such_platform" in result.stderr


def test_detections_and_the_reading_of_images_need_no_jax():
    code = (
        "import sys\nimport ssd_jax.inference.detector, ssd_jax.inference.drawing\nfrom ssd_jax.data import warp\n"
        "print([name for name in ('jax', 'flax', 'orbax', 'grain', 'optax') if name in sys.modules])"
    )
    assert run(code).stdout.strip() == "[]"
