"""XLA's flags in tests: fake devices, and code that is compiled fast, since tests compile much and compute little."""

from importlib.metadata import version


def flags(devices):
    """Return XLA_FLAGS for so many CPU devices."""
    chosen = [f"--xla_force_host_platform_device_count={devices}", "--xla_backend_optimization_level=0"]
    if version("jaxlib").startswith("0.10."):
        # The older of its two code generators takes two thirds of the time. Later versions have only the newer one,
        # and end at a flag that they do not know.
        chosen.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(chosen)
