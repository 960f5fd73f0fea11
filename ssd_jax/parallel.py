"""Devices and processes: the only file that calls pmap, or asks JAX what devices and processes there are."""

import math
import os
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssd_jax.extras import import_extra

Device = Any  # jax.Device, which type checkers take for a variable
AXIS = "batch"
SHUTDOWN_TIMEOUT = 15  # seconds that a process waits for the others when it ends


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Make this process one of several that run one program. Each calls this before any other use of JAX.

    Without arguments, JAX takes them from the environment of Slurm, Open MPI, or a TPU pod.

    A process that ends with an error soon ends the others too. Otherwise all must reach the end of the program
    together (see `of_every_process`).

    Args:
      coordinator: "HOST:PORT" of process 0, the same in every process.
      num_processes: the number of processes.
      process_id: the number of this process, from 0.

    Raises:
      ValueError: if only some of the three are given, one is out of range, or the environment has none of them.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(
            f"coordinator, num_processes and process_id must be given together; got no {' and no '.join(missing)}"
        )
    if coordinator is not None and num_processes is not None and process_id is not None:
        if not re.fullmatch(r".+:\d+", coordinator):
            raise ValueError(f"coordinator must be HOST:PORT; got {coordinator!r}")
        if not 0 <= process_id < num_processes:
            raise ValueError(f"process_id must be in [0, num_processes); got {process_id} of {num_processes}")
        jax.distributed.initialize(coordinator, num_processes, process_id, shutdown_timeout_seconds=SHUTDOWN_TIMEOUT)
        return
    try:
        jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN_TIMEOUT)
    except ValueError as error:
        raise ValueError(
            f"the environment does not say how many processes there are ({error}): outside Slurm, Open MPI and TPU "
            "pods, pass coordinator, num_processes and process_id"
        ) from error


def require_devices() -> None:
    """Start JAX's backend, after `join`.

    Raises:
      ValueError: in one line, if JAX finds no device, as with JAX_PLATFORMS=cuda on a machine without a GPU.
    """
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # jax 0.10 asserts that a platform has a backend
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = f": {error}" if str(error) else ""
        raise ValueError(f"JAX must find a device; got none with JAX_PLATFORMS={platforms!r}{reason}") from error


class Topology(NamedTuple):
    """Where this process stands among all that run the program."""

    process: int  # the number of this process, from 0
    processes: int  # how many there are
    local_devices: int  # of this process
    devices: int  # of all processes


def topology() -> Topology:
    """Return the number of this process, and how many processes and devices there are."""
    return Topology(jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count())


def described_devices(slice_name: str) -> list[Device]:
    """Return the chips of a TPU slice or the GPUs of a host that are only described: programs compile for them.

    JAX must run on the CPU (JAX_PLATFORMS=cpu), so that accelerators of this machine stay free.

    Args:
      slice_name: a generation of TPU and the chips along each axis, such as "v5e:4x4" or "v5p:2x2x2"; or "h100:8".

    Raises:
      ValueError: without the extra `tpu-compile` or `gpu-compile`, and for a slice that does not exist.
    """
    rule = "a generation of TPU and the chips along each axis, such as v5e:2x2 or v5p:2x2x1, or h100:1 to h100:8"
    if not re.fullmatch(r"(v4|v5e|v5p|v6e):\d+x\d+(x\d+)?|h100:[1-8]", slice_name):
        raise ValueError(f"compile_for must be {rule}; got {slice_name!r}")
    kind, _, shape = slice_name.partition(":")
    describe = _described_gpus if kind == "h100" else _described_tpus
    try:
        return describe(kind, [int(side) for side in shape.split("x")])
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"compile_for must be {rule}; got {slice_name!r}: {str(error).splitlines()[0]}") from error


def _described_tpus(kind: str, sides: list[int]) -> list[Device]:
    import_extra("libtpu", "tpu-compile")
    # Look for no TPU: ask no metadata server what this machine is, and hold no lock on chips.
    here = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ.update(here, TPU_ACCELERATOR_TYPE="v5litepod-4")
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if math.prod(sides) < 4:  # a part of a host
        options["chips_per_host_bounds"] = (*sides, 1)[:3]
    name = f"{kind}:{'x'.join(map(str, sides))}"
    return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)


# What XLA wants to know of an H100 (SXM), in its own words.
H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def _described_gpus(kind: str, sides: list[int]) -> list[Device]:
    del kind  # the one that there is
    import_extra("jax_cuda12_plugin", "gpu-compile")
    from jax.experimental import topologies

    topology = {"target_config": H100, "topology": f"1x1x{sides[0]}"}  # slices, hosts, GPUs of a host
    return list(topologies.get_topology_desc("", platform="cuda", **topology).devices)


def is_first() -> bool:
    """Return whether this process is the one that writes files and prints for all."""
    return jax.process_index() == 0


def is_cpu(devices: Sequence[Device] | None = None) -> bool:
    """Return whether the devices are CPUs; by default those of this process."""
    return (devices[0].platform if devices else jax.default_backend()) == "cpu"


def this_cpu() -> list[Device]:
    """Return one CPU of this process."""
    return jax.local_devices(backend="cpu")[:1]


def device_kind() -> str:
    """Return the name of the first device's kind, such as "NVIDIA H100 80GB HBM3"."""
    return jax.local_devices()[0].device_kind


def peak_memory() -> int | None:
    """Return the most bytes that the first device held so far; None for a CPU, which has no memory of its own."""
    statistics = jax.local_devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else None


def of_every_process(value: Any) -> np.ndarray:
    """Return the number or array of each process, `[processes, ...]`.

    All processes must call this at the same place, with values of one shape: none returns before all have called.
    """
    return np.reshape(multihost_utils.process_allgather(np.asarray(value)), (-1, *np.shape(value)))


def objects_of_every_process(value: Any) -> list[Any]:
    """Return the picklable object of each process, in the order of the processes.

    All processes must call this at the same place.

    The objects may differ in size: they travel as bytes, padded to the longest. They come from the processes of this
    same run, so unpickling them is safe.
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = of_every_process(len(data))  # [processes]
    padded = of_every_process(np.pad(data, (0, lengths.max() - len(data))))  # [processes, longest]
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(padded, lengths.tolist(), strict=True)]


def over_devices(step: Callable[..., Any], devices: Sequence[Device] | None = None) -> Callable[..., Any]:
    """Run `step(state, batch, key) -> (state, metrics)` on every device, each with its share of the batch.

    The state keeps its single-device shape, as argument and as result, and is donated. `step` must sum over `AXIS`,
    so that its result is the same on all devices. The arrays of the batch are this process's share of it,
    `[devices, per device, ...]` (see `shard`).
    """
    return jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices, donate_argnums=0)


def put_on_devices(state: Any, devices: Sequence[Device] | None = None) -> Any:
    """Place a new or restored state as the step of `over_devices` returns it.

    Otherwise the second step would be compiled again, because its input is placed in another way.
    """
    count = jax.local_device_count() if devices is None else len(devices)
    identity = jax.pmap(lambda state, _: state, AXIS, in_axes=(None, 0), out_axes=None, devices=devices)
    return identity(state, np.zeros(count, np.float32))


def gather_over_devices(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run `function(variables, batch)` on every device, with all variables and its share of the batch.

    The arrays of the batch are as in `over_devices`. Each process gets the results of all processes, `[B, ...]`:
    those of process 0 come first.
    """

    def run(variables: Any, batch: Any) -> Any:
        return jax.lax.all_gather(function(variables, batch), AXIS, tiled=True)

    return jax.pmap(run, AXIS, in_axes=(None, 0), out_axes=None)


def shard(arrays: dict[str, np.ndarray], devices: int | None = None) -> dict[str, np.ndarray]:
    """Turn `[B, ...]` arrays into `[devices, B / devices, ...]`, by default for all devices of this process.

    Raises:
      ValueError: if the arrays differ in B, or B is not a multiple of the devices.
    """
    devices = devices or jax.local_device_count()
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) != 1 or (size := sizes.pop()) % devices:
        raise ValueError(f"the batch must divide evenly over {devices} devices; got sizes {sizes or size}")
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in arrays.items()}
