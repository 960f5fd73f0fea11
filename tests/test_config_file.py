"""Configs by name or file, changed by flags; their mistakes in one line."""

import subprocess
import sys

import pytest
from launch import ROOT

from ssd_jax.config_file import FOLDER, config_names, config_path, read_config

CONFIG = """
import numpy as np
from ml_collections import ConfigDict

def get_config(size=""):
    config = ConfigDict({"steps": 3, "data": {"root": "", "sizes": (1, 2)}})
    config.lock()
    # a mistake
    return config
"""


@pytest.fixture
def read(tmp_path):
    """Read a config in which `# a mistake` is another line."""

    def read(line="", *overrides, text=CONFIG, argument=""):
        path = tmp_path / "mine.py"
        path.write_text(text.replace("# a mistake", line))
        return read_config(f"{path}{argument}", overrides)

    return read


def test_a_config_is_read_and_changed_by_flags(read):
    config = read("config.data.root = size", "--config.steps=4", "--config.data.sizes=(7,)", argument=":small")
    assert (config.steps, config.data.sizes, config.data.root) == (4, (7,), "small")
    assert read("", "--config.data.root", "there").data.root == "there"
    assert config.is_locked and read().is_locked


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("np.flot(3)", "AttributeError: module 'numpy' has no attribute 'flot'"),
        ("config.stpes = 3", 'AttributeError: \'Key "stpes" does not exist and cannot be added since the'),
        ("config['data']['rot']", "KeyError: 'rot'"),
        ("int('a')", "ValueError: invalid literal for int() with base 10: 'a'"),
        ("open('nowhere')", "FileNotFoundError: "),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("return 1 +", "invalid syntax"),
    ],
)
def test_a_mistake_in_a_config_is_one_line_that_shows_its_line(read, line, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        read(line, "--config.steps=4")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/mine.py, line 8: {line}: ") and "\n" not in text
    assert message in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "a config must define get_config(); got a file without it"),
        ("def get_config():\n    return {'steps': 3}", "get_config() must return a ConfigDict; got dict"),
        ("def get_config():\n    pass", "get_config() must return a ConfigDict; got NoneType"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(read, text, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        read(text=text)
    assert str(caught.value) == f"{tmp_path}/mine.py: {message}"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.rot=x", "; got --config.data.rot=x; did you mean 'root'?"),
        ("--config.stps=4", "; got --config.stps=4; did you mean 'steps'?"),
        ("--config.optimizer.lrr=1", "; got --config.optimizer.lrr=1"),
        ("--config.steps.much=1", "; got --config.steps.much=1"),
        ("--config.data.sizes[5]=1", "; got --config.data.sizes[5]=1"),
        ("--config.steps=many", "flag --config.steps=many: invalid literal for int()"),
        ("--config.steps", "Missing value for flag --config.steps"),
        ("--config.data.strict=yes", "; got --config.data.strict=yes"),
    ],
)
def test_a_flag_that_the_config_does_not_have_is_one_line(read, flag, message):
    with pytest.raises(ValueError) as caught:
        read("", "--config.data.root=here", flag)
    text = str(caught.value)
    assert message in text and "\n" not in text
    if message.startswith("; got"):
        assert text.startswith("a --config. flag must name a field of the config; got ")


def test_a_boolean_field_takes_its_value_after_an_equals_sign(read):
    config = "config = ConfigDict({'data': {'strict': True}}); return config"
    assert read(config, "--config.data.strict=false").data.strict is False
    assert read(config, "--noconfig.data.strict").data.strict is False
    with pytest.raises(ValueError, match=r"a field must be set as --config\.FIELD=VALUE; got --config.data.strict a"):
        read(config, "--config.data.strict", "a")


@pytest.mark.parametrize("name", ["none.py:small", "none", "./shapes", "configs", "", "__init__"])
def test_a_config_that_does_not_exist_is_one_line_that_lists_the_names(name):
    known = ", ".join(path.stem for path in sorted((ROOT / "configs").glob("s*.py")))
    with pytest.raises(ValueError) as caught:
        read_config(name)
    text = str(caught.value)
    assert text.startswith("a config must be a Python file, or one of ") and known in text and "\n" not in text
    assert text.endswith(f"; got {name.partition(':')[0]!r}")


def test_every_config_has_a_name():
    files = {
        path.stem for path in (ROOT / "configs").iterdir() if path.suffix == ".py" and path.name != "__init__.py"
    }
    assert set(config_names()) == files and {"shapes", "ssd300_voc", "voc_folder"} <= files
    assert config_path("shapes") == FOLDER / "shapes.py"
    assert read_config("shapes", ["--config.steps=7"]).steps == 7


def start(code, folder):
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)


MINE = """
from configs import base, ssd300_voc

def get_config():
    config = ssd300_voc.get_config().unlock()
    config.steps = base.STEPS
    return config.lock()
"""


def test_a_config_of_ones_own_imports_ours_and_those_beside_it(tmp_path):
    """In a folder that has a folder configs/ itself, as our clone does."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.py").write_text("STEPS = 5\n")
    (tmp_path / "configs" / "mine.py").write_text(MINE)
    code = f"import sys; sys.path.append({str(ROOT)!r}); from ssd_jax.config_file import read_config\n"
    code += "print([read_config(name).steps for name in ('configs/mine.py', 'voc_folder')])"
    done = start(code, tmp_path)
    assert done.stdout == "[5, 1200]\n", done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder that pip would install, without the libraries."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("ssd_jax", "configs", "setup.py", "setup.cfg", "README.md", "requirements.txt"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "setup.py", "-q", "build", f"--build-base={folder}/build", f"--build-lib={folder}/lib"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("setuptools is not installed")
    assert done.returncode == 0, done.stderr
    return folder / "lib"


def test_the_wheel_has_the_configs_by_name(wheel, tmp_path):
    assert [path.name for path in wheel.iterdir()] == ["ssd_jax"]
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); from ssd_jax.config_file import *\n"
    code += "print(FOLDER, *[read_config(name).batch_size for name in config_names()])"
    done = start(code, tmp_path)
    sizes = [str(read_config(name).batch_size) for name in config_names()]
    assert done.stdout.split() == [str(wheel / "ssd_jax" / "configs"), *sizes], done.stderr
