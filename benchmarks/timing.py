"""What the benchmarks share: times that can be compared, tables, and the name of the machine."""

import datetime
import importlib.metadata
import os
import platform
import time
from pathlib import Path

import jax


def seconds(run):
    """Time one call, to the end of what it computes."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def best_times(variants, repeats):
    """Least seconds of each variant over rounds in which each runs once; the first, uncounted, compiles.

    A busy machine then slows all variants alike.
    """
    found = {name: [] for name in variants}
    for i in range(repeats + 1):
        for name, run in variants.items():
            took = seconds(run)
            if i:
                found[name].append(took)
    return {name: min(took) for name, took in found.items()}


class Table:
    """A Markdown table, printed row by row."""

    def __init__(self, *columns):
        self.lines = []
        self.row(*columns)
        self.row(*["---"] * len(columns))

    def row(self, *cells):
        self.lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(self.lines[-1], flush=True)


def machine(*packages):
    """One line: device, date, and versions of Python, jax and those `packages` that are installed."""
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
