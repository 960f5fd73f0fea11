"""Settings that make JAX faster on a CPU. They count only from the start of a program."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping

SWITCH = "SSD_JAX_FAST_CPU"
"""The environment variable that turns all of this off where it is 0."""

# XLA's newer library of CPU kernels keeps two cores busy 1.5 at a time in convolutions of few features. An empty list
# of its fusions brings the older one back: 1.9.
OLDER_KERNELS = "--xla_cpu_experimental_ynn_fusion_type"
KNOWN_TO = ((0, 10), (0, 13))  # the jaxlib versions, from the first up to the second: an unknown flag ends a program
# XLA asks for its buffers anew at each step, and the kernel clears them page by page: keep them, in large pages.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(100 << 30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def restart_faster() -> None:
    """Set what makes JAX faster on a CPU. It must run before JAX is imported.

    The allocator reads its settings when a program starts. So a program that lacks them starts itself anew, with the
    same arguments, in the same process.
    """
    if "jax" in sys.modules:
        return
    added = settings(os.environ)
    os.environ.update(added)
    if added.keys() & KEPT_MEMORY.keys():
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables to set. None that the user has set is changed, but for a flag after XLA's."""
    if environment.get(SWITCH, "1") == "0" or not _runs_on_cpu(environment):
        return {}
    added = {}
    flags = environment.get("XLA_FLAGS", "")
    if OLDER_KERNELS not in flags and KNOWN_TO[0] <= _version("jaxlib") < KNOWN_TO[1]:
        added["XLA_FLAGS"] = f"{flags} {OLDER_KERNELS}=".strip()
    allocator = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if platform.libc_ver()[0] == "glibc" and not any(name.startswith(allocator) for name in environment):
        added |= KEPT_MEMORY
    return added


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
