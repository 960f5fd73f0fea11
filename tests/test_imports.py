"""What each room may import: nothing above it, and nothing heavier than it says."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ssd_jax"

# From the bottom to the top: a room imports only rooms before it.
ORDER = [
    *("moved", "files", "command"),
    *("box", "loss", "preprocess", "metrics", "data", "augment", "model", "parallel", "checkpoint"),
    *("inference", "training", "pretrained", "report", "loop", "cli", "__main__"),
    *("datasets", "batching", "classes"),  # old names of rooms: nothing may import them
]
# Within box.
BOX_ORDER = ["numerics", "geometry", "codec", "matching", "nms", "priors"]
HEAVY = ("flax", "optax", "orbax", "grain", "cv2", "tensorflow_datasets", "jaxtyping", "chex")
# A name that one room alone says.
ONLY_IN = {"orbax": "checkpoint", "pmap": "parallel"}
# What jax tells of devices and processes: one room alone asks, as `jax.NAME`.
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
    """Dotted names of everything that the code imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {package}: write the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def words(source):
    """First parts of imported names, and every name and attribute, that the code uses."""
    found = {name.split(".")[0] for name in imported(source)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def violations(room, names, order):
    """Names in `order` at or after the place of `room`, save `room` itself, among dotted names of the package."""
    known = {name.split(".")[1] for name in names if name.startswith("ssd_jax.") and name.count(".")}
    return sorted(other for other in known & set(order) - {room} if order.index(other) > order.index(room))


@pytest.mark.parametrize("room", [room for room in rooms() if room != "__init__"])
def test_a_room_imports_only_rooms_below_it(room):
    assert room in ORDER, f"{room} has no place in the order of rooms"
    for path in sources(room):
        names = imported(path.read_text(), path)
        assert violations(room, names, ORDER) == [], path


@pytest.mark.parametrize("name", ONLY_IN)
def test_one_room_alone_says_a_name(name):
    said = {room for room in rooms() for path in sources(room) if name in words(path.read_text())}
    assert said <= {ONLY_IN[name]}


def asked_of_jax(source):
    """Names of DEVICES that the code asks jax for."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in DEVICES
        if isinstance(node.value, ast.Name) and node.value.id == "jax"
    } | {name.split(".")[1] for name in imported(source) if name.startswith(tuple(f"jax.{name}" for name in DEVICES))}


@pytest.mark.parametrize("room", [room for room in rooms() if room != "parallel"])
def test_parallel_alone_asks_for_devices_and_processes(room):
    assert {path: asked for path in sources(room) if (asked := asked_of_jax(path.read_text()))} == {}


def test_the_questions_to_jax_are_found():
    assert asked_of_jax("n = jax.local_device_count() + other.devices()") == {"local_device_count"}
    assert asked_of_jax("from jax import device_count\njax.device_get(x)") == {"device_count"}


def test_the_words_of_a_module_are_its_code_not_its_comments():
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


def test_the_order_would_notice():
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


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


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


def test_importing_box_costs_little_beyond_jax():
    code = (
        "import time, jax, jax.numpy\nstart = time.process_time()\nimport ssd_jax.box\n"
        "print(time.process_time() - start)"
    )
    assert min(float(run(BLOCKED_IMPORT + code).stdout) for _ in range(2)) < 0.05
