"""Settings for a CPU: which are added, and that a program has them from its start."""

import os
import platform
import re
import subprocess
import sys

import pytest
from launch import ROOT

from ssd_jax import fast_cpu
from ssd_jax.fast_cpu import KEPT_MEMORY, OLDER_KERNELS, kernel_settings, memory_settings

LIBRARY = platform.libc_ver()[0]
CPU = {"JAX_PLATFORMS": "cpu"}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with GNU's library of C and a jaxlib of today."""
    monkeypatch.setattr(fast_cpu.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(fast_cpu.importlib.metadata, "version", lambda package: "0.10.2")


def all_settings(environment, backbone="vgg16"):
    return memory_settings(environment) | kernel_settings(environment, backbone)


def test_a_cpu_keeps_its_memory_and_vgg_gets_the_older_kernels():
    assert memory_settings(CPU) == KEPT_MEMORY
    assert kernel_settings(CPU, "vgg16") == {"XLA_FLAGS": f"{OLDER_KERNELS}="}
    assert kernel_settings(CPU, "efficientnet_lite0") == kernel_settings(CPU, "resnet50") == {}


def test_settings_are_added_once():
    assert all_settings(CPU | all_settings(CPU)) == {}


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
    assert all_settings(environment) == {}


def test_an_installed_plugin_is_another_device(monkeypatch):
    monkeypatch.setattr(fast_cpu.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fast_cpu.importlib.metadata, "entry_points", lambda group: ())
    assert memory_settings({})
    monkeypatch.setattr(fast_cpu.importlib.util, "find_spec", lambda name: name if name == "libtpu" else None)
    assert all_settings({}) == {}
    assert memory_settings(CPU)


def test_what_the_user_set_stays():
    flags = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    assert all_settings(CPU | flags)["XLA_FLAGS"] == f"--xla_cpu_enable_fast_math=true {OLDER_KERNELS}="
    assert all_settings(CPU | {"XLA_FLAGS": f"{OLDER_KERNELS}=dot"}) == KEPT_MEMORY
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"):
        assert all_settings(CPU | {name: "x"}).keys() == {"XLA_FLAGS"}


@pytest.mark.parametrize("version", ["0.9.9", "0.13.0", "0.13.0.dev20270101", "1.0", "new"])
def test_a_jaxlib_that_is_not_known_gets_no_flag(version, monkeypatch):
    monkeypatch.setattr(fast_cpu.importlib.metadata, "version", lambda package: version)
    assert all_settings(CPU) == KEPT_MEMORY


def test_another_library_of_c_gets_no_settings_of_memory(monkeypatch):
    monkeypatch.setattr(fast_cpu.platform, "libc_ver", lambda: ("", ""))
    assert all_settings(CPU).keys() == {"XLA_FLAGS"}


SEEN = """
import sys
from ssd_jax import fast_cpu
from ssd_jax.config_file import read_config
from ssd_jax.loop.workdir import choose_kernels_for
fast_cpu.OLDER_KERNELS, fast_cpu.KNOWN_TO = "--no_such_flag", ((0, 0), (99, 0))
choose_kernels_for(read_config(sys.argv[1]))
import jax
jax.devices()
"""


@pytest.mark.parametrize(
    ("name", "failure"), [("voc_folder", "Unknown flag in XLA_FLAGS: --no_such_flag"), ("finetune", "")]
)
def test_the_kernels_are_chosen_after_the_config_is_read_and_before_xla_starts(name, failure):
    """A flag that XLA does not know, in place of ours, ends the program: XLA has read what the config asks for."""
    environment = os.environ | CPU | {"XLA_FLAGS": "", "SSD_JAX_FAST_CPU": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SEEN, name], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode != 0) == bool(failure) and failure in done.stderr


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
