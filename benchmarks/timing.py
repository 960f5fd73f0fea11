"""Shared by the benchmarks: comparable times, tables, and the name of the machine."""

import datetime
import importlib.metadata
import os
import platform
import time
from pathlib import Path

import jax


def seconds(run):
    """Time one call, until its results are computed."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def best_times(variants, repeats):
    """Return the least seconds of each variant over rounds in which each variant runs once.

    The variants take turns, so that a busy machine slows all alike. The first round compiles and is not counted.
    """
    found = {name: [] for name in variants}
    for i in range(repeats + 1):
        for name, run in variants.items():
            took = seconds(run)
            if i:
                found[name].append(took)
    return {name: min(took) for name, took in found.items()}


class Table:
    """A Markdown table that is printed row by row."""

    def __init__(self, *columns):
        self.lines = []
        self.row(*columns)
        self.row(*["---"] * len(columns))

    def row(self, *cells):
        self.lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(self.lines[-1], flush=True)


def machine(*packages):
    """Describe in one line the device, the date, and the versions of Python, jax and installed `packages`."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else f"{processor()}, {os.cpu_count()} cores"
    versions = [f"Python {platform.python_version()}", f"jax {jax.__version__}"]
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{kind}; {datetime.date.today()}; {', '.join(versions)}"


def processor():
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
