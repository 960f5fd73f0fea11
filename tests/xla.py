"""XLA's flags in tests: fake devices, and code that is compiled fast, since tests compile much and compute little."""

from importlib.metadata import version


def flags(devices, *, older_generator=True):
    """Return XLA_FLAGS for so many CPU devices.

    The older of jaxlib 0.10's two code generators takes two thirds of the time. Later versions have only the newer
    one, and end at a flag that they do not know.
    """
    chosen = [f"--xla_force_host_platform_device_count={devices}", "--xla_backend_optimization_level=0"]
    if older_generator and version("jaxlib").startswith("0.10."):
        chosen.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(chosen)
