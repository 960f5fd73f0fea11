"""Settings that make JAX faster on a CPU. They count only from the start of a program."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping

SWITCH = "SSD_JAX_FAST_CPU"
"""The environment variable that turns all of this off where it is 0."""

# XLA's newer library of CPU kernels keeps two cores busy 1.5 at a time in VGG's convolutions, the older one 1.9. An
# empty list of its fusions brings that back. With 1x1 and depthwise convolutions the newer one is faster.
OLDER_KERNELS = "--xla_cpu_experimental_ynn_fusion_type"
FASTER_WITH_OLDER = ("vgg16",)  # backbones
KNOWN_TO = ((0, 10), (0, 13))  # the jaxlib versions, from the first up to the second: an unknown flag ends a program
# XLA asks for its buffers anew at each step, and the kernel clears them page by page: keep them, in large pages.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(100 << 30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def restart_faster() -> None:
    """Start this program anew, in the same process, with the settings of memory that it lacks.

    The allocator reads them when a program starts. This must run before JAX is imported.
    """
    if "jax" not in sys.modules and (added := memory_settings(os.environ)):
        os.environ.update(added)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def choose_kernels(backbone: str) -> None:
    """Have XLA use the kernels that are faster for a network. This must run before JAX looks for its devices."""
    os.environ.update(kernel_settings(os.environ, backbone))


def memory_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the allocator to set: none if the user has set one, or the device is no CPU."""
    theirs = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if (
        not _is_wanted(environment)
        or platform.libc_ver()[0] != "glibc"
        or any(name.startswith(theirs) for name in environment)
    ):
        return {}
    return KEPT_MEMORY


def kernel_settings(environment: Mapping[str, str], backbone: str) -> dict[str, str]:
    """Return XLA's flags to set, which keep those that the user has set."""
    flags = environment.get("XLA_FLAGS", "")
    if (
        backbone not in FASTER_WITH_OLDER
        or not _is_wanted(environment)
        or OLDER_KERNELS in flags
        or not KNOWN_TO[0] <= _version("jaxlib") < KNOWN_TO[1]
    ):
        return {}
    return {"XLA_FLAGS": f"{flags} {OLDER_KERNELS}=".strip()}


def _is_wanted(environment: Mapping[str, str]) -> bool:
    return environment.get(SWITCH, "1") != "0" and _runs_on_cpu(environment)


def _runs_on_cpu(environment: Mapping[str, str]) -> bool:
    """Tell whether JAX will choose the CPU: it is asked to, or nothing for another device is installed."""
    platforms = environment.get("JAX_PLATFORMS") or environment.get("JAX_PLATFORM_NAME")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))


def _version(package: str) -> tuple[int, int]:
    try:
        first, second, *_ = importlib.metadata.version(package).split(".")
        return int(first), int(second)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return 0, 0
