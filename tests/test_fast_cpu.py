"""Settings for a CPU: which are added, and that a program has them from its start."""

import os
import platform
import re
import subprocess
import sys

import pytest
from launch import ROOT

from ssd_jax import fast_cpu
from ssd_jax.fast_cpu import KEPT_MEMORY, OLDER_KERNELS, settings

LIBRARY = platform.libc_ver()[0]
CPU = {"JAX_PLATFORMS": "cpu"}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with GNU's library of C and a jaxlib of today."""
    monkeypatch.setattr(fast_cpu.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(fast_cpu.importlib.metadata, "version", lambda package: "0.10.2")


def test_a_cpu_gets_the_older_kernels_and_keeps_its_memory():
    assert settings(CPU) == {"XLA_FLAGS": f"{OLDER_KERNELS}="} | KEPT_MEMORY


def test_settings_are_added_once():
    assert settings(CPU | settings(CPU)) == {}


@pytest.mark.parametrize(
    "environment",
    [
        CPU | {"SSD_JAX_FAST_CPU": "0"},
        {"JAX_PLATFORMS": "cuda"},
        {"JAX_PLATFORMS": "tpu,cpu"},
        {"JAX_PLATFORM_NAME": "gpu"},
    ],
)
def test_nothing_is_added_where_it_is_switched_off_or_for_another_device(environment):
    assert settings(environment) == {}


def test_an_installed_plugin_is_another_device(monkeypatch):
    monkeypatch.setattr(fast_cpu.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fast_cpu.importlib.metadata, "entry_points", lambda group: ())
    assert settings({})
    monkeypatch.setattr(fast_cpu.importlib.util, "find_spec", lambda name: name if name == "libtpu" else None)
    assert settings({}) == {}
    assert settings(CPU)


def test_what_the_user_set_stays():
    flags = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    assert settings(CPU | flags)["XLA_FLAGS"] == f"--xla_cpu_enable_fast_math=true {OLDER_KERNELS}="
    assert settings(CPU | {"XLA_FLAGS": f"{OLDER_KERNELS}=dot"}) == KEPT_MEMORY
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"):
        assert settings(CPU | {name: "x"}).keys() == {"XLA_FLAGS"}


@pytest.mark.parametrize("version", ["0.9.9", "0.13.0", "0.13.0.dev20270101", "1.0", "new"])
def test_a_jaxlib_that_is_not_known_gets_no_flag(version, monkeypatch):
    monkeypatch.setattr(fast_cpu.importlib.metadata, "version", lambda package: version)
    assert settings(CPU) == KEPT_MEMORY


def test_another_library_of_c_gets_no_settings_of_memory(monkeypatch):
    monkeypatch.setattr(fast_cpu.platform, "libc_ver", lambda: ("", ""))
    assert settings(CPU).keys() == {"XLA_FLAGS"}


CONFIG = """
import os
import sys

def get_config():
    variables = [os.environ.get(name) for name in ("XLA_FLAGS", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")]
    raise ValueError(f"{os.getpid()} {sys.orig_argv[1:]} {variables} {'jax' in sys.modules}")
"""


@pytest.mark.skipif(LIBRARY != "glibc", reason="only GNU's library of C has the settings of memory")
@pytest.mark.parametrize("program", [["-m", "ssd_jax", "train"], ["train.py"]])
@pytest.mark.parametrize("switch", ["1", "0"])
def test_a_program_has_the_settings_from_its_start(program, switch, tmp_path):
    """The config is read by the process that was started, by the same command line, in the changed environment."""
    (tmp_path / "show.py").write_text(CONFIG)
    arguments = [*program, f"--config={tmp_path}/show.py", "--workdir=a b"]
    environment = {name: value for name, value in os.environ.items() if name not in KEPT_MEMORY}
    environment |= CPU | {"XLA_FLAGS": f"{OLDER_KERNELS}=", "SSD_JAX_FAST_CPU": switch}
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    shown = re.search(r"ValueError: (\d+) (\[.*\]) (\[.*\]) (\w+)$", errors.strip())
    assert (int(shown[1]), shown[2], shown[4]) == (process.pid, str(arguments), "False")
    memory = ["107374182400", "glibc.malloc.hugetlb=1"] if switch == "1" else [None, None]
    assert shown[3] == str([f"{OLDER_KERNELS}=", *memory])
