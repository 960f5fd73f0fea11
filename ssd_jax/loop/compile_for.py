"""Compile the step and the detector for chips that need not exist, and say what they cost there."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from ssd_jax.data.batches import train_batch_shapes
from ssd_jax.inference import make_detect
from ssd_jax.loop.build import build_model, build_training, check_batch_size, open_split
from ssd_jax.loop.chips import Roofline, chip_of, roofline
from ssd_jax.loop.fields import complete
from ssd_jax.loop.hlo import COLLECTIVES, Cost, Module
from ssd_jax.model import variable_shapes
from ssd_jax.parallel import Device, described_devices, shard, this_cpu

LARGEST = 20  # instructions that a report lists


class Compilation(NamedTuple):
    """What a program costs one chip.

    Attributes:
      program: "step" or "detector".
      topology: the slice, such as "v5e:2x2".
      chips: of the slice; 1 for the detector.
      images: of one chip, at a time.
      seconds: to compile.
      operations: arithmetic, as XLA counts it.
      accessed: bytes that XLA counts as accessed, those that stay on the chip included; 0 for a GPU.
      everywhere: the same by the sum over the instructions.
      arguments: bytes in the chip's memory before the program runs.
      temporary: more bytes while it runs.
      costs: of each instruction, the largest traffic first.
    """

    program: str
    topology: str
    chips: int
    images: int
    seconds: float
    operations: float
    accessed: float
    everywhere: int
    arguments: int
    temporary: int
    costs: list[Cost]

    @property
    def traffic(self) -> int:
        """Return the bytes between the chip and its memory: the sum over the instructions."""
        return sum(cost.size for cost in self.costs)

    @property
    def collectives(self) -> dict[str, list[Cost]]:
        """Return the collectives by kind."""
        found = defaultdict(list)
        for cost in self.costs:
            if (kind := cost.opcode.removesuffix("-start")) in COLLECTIVES:
                found[kind].append(cost)
        return dict(found)

    @property
    def reduced(self) -> int:
        """Return the bytes that a chip contributes to all-reduces."""
        return sum(cost.payload for cost in self.collectives.get("all-reduce", []))

    @property
    def least(self) -> Roofline:
        """Return the least time of a run of the program."""
        return roofline(self.topology, operations=self.operations, traffic=self.traffic, reduced=self.reduced)

    @property
    def images_per_second(self) -> float:
        """Return an upper bound of the images a second of a chip; it is no measurement."""
        return self.images / self.least.step

    def groups(self) -> dict[str, int]:
        """Return the traffic by room, direction and operation, the largest first: "model, backward: reduce_sum"."""
        sizes: dict[str, int] = defaultdict(int)
        for cost in self.costs:
            sizes[_group(cost)] += cost.size
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    def report(self) -> str:
        """Describe the program in lines."""
        chip, least = chip_of(self.topology), self.least
        share = (self.arguments + self.temporary) / chip.memory
        gflop = self.operations / 1e9
        counted = ""
        if self.accessed:
            counted = (
                f"; with what stays on the chip {_gb(self.everywhere)}, which XLA counts as {_gb(self.accessed)}"
            )
        lines = [
            f"{self.program} for {self.topology}, {self.images} images a chip: compiled in {self.seconds:.0f} s",
            f"arithmetic: {gflop:,.0f} GFLOP a chip, {gflop / self.images:.1f} an image",
            f"memory traffic: {_gb(self.traffic)} a chip, {_gb(self.traffic / self.images)} an image{counted}",
            f"memory: {_gb(self.arguments)} of arguments and {_gb(self.temporary)} while it runs, {share:.0%} of the "
            f"chip's {_gb(chip.memory)}",
            "collectives: " + ("; ".join(_collective(*item) for item in self.collectives.items()) or "none"),
            f"least time: {_ms(least.arithmetic)} of arithmetic, {_ms(least.memory)} of memory traffic, "
            f"{_ms(least.interconnect)} of collectives; bound by {least.bound}",
            f"at most {self.images_per_second:,.0f} images a second and chip: an upper bound by the maker's figures, "
            "not a measurement",
            "",
            "traffic by part of the code and operation, from 1 % of all:",
            *(f"{size / 1e9:9.3f} GB  {name}" for name, size in self.groups().items() if size > 1e-2 * self.traffic),
            "",
            f"the largest {LARGEST} instructions by traffic:",
            *(f"{cost.size / 1e9:9.3f} GB  {_described(cost)}" for cost in self.costs[:LARGEST]),
        ]
        return "\n".join(lines)


def compile_run(config: ConfigDict, topology: str) -> str:
    """Compile the step of a run and its detector for chips that need not exist, and report what they cost.

    Nothing is written.

    Raises:
      ValueError: without the extra `tpu-compile` or `gpu-compile`, for an unknown slice, and as `train`.
    """
    config = complete(config)
    devices = described_devices(topology)
    check_batch_size(config, len(devices))
    num_classes = 1 + len(open_split(config.data, config.data.train).class_names)
    programs = compile_step(config, topology, num_classes), compile_detector(config, topology, num_classes)
    return "\n\n".join(program.report() for program in programs)


def compile_step(config: ConfigDict, topology: str, num_classes: int, **options: Any) -> Compilation:
    """Compile the training step of a config; its `batch_size` counts the images of all chips.

    Args:
      config: of a run.
      topology: such as "v5e:2x2".
      num_classes: C, background included.
      options: of XLA's compiler.

    Raises:
      ValueError: without the extra `tpu-compile` or `gpu-compile`, for an unknown slice or a wrong config.
    """
    config, devices = complete(config), described_devices(topology)
    check_batch_size(config, len(devices))
    images, data = config.batch_size // len(devices), config.data

    def lower(devices: Sequence[Device]) -> Any:
        training = build_training(config, num_classes, devices)
        batch = train_batch_shapes(
            batch_size=len(devices) * images, canvas_size=data.canvas_size, max_boxes=data.max_boxes
        )
        key = jax.eval_shape(lambda: training.key)
        return training.step.lower(training.shapes, shard(batch, len(devices)), key)

    return _compiled("step", lower, devices, topology, images, options)


def compile_detector(config: ConfigDict, topology: str, num_classes: int, **options: Any) -> Compilation:
    """Compile the detector of a config for one chip, which gets `eval.batch_size` images.

    The arguments are those of `compile_step`.
    """
    config, images = complete(config), config.eval.batch_size
    model = build_model(config, num_classes)

    def lower(devices: Sequence[Device]) -> Any:
        detect = jax.jit(make_detect(model), in_shardings=SingleDeviceSharding(devices[0]))
        batch = jax.ShapeDtypeStruct((images, *model.spec.input_sides, 3), "uint8")
        return detect.lower(variable_shapes(model), batch)

    return _compiled("detector", lower, described_devices(topology)[:1], topology, images, options)


def _compiled(
    program: str,
    lower: Callable[[Sequence[Device]], Any],
    devices: Sequence[Device],
    topology: str,
    images: int,
    options: dict[str, Any],
) -> Compilation:
    """Compile what `lower` lowers for the devices."""
    if devices[0].platform == "gpu":
        options = {"xla_gpu_autotune_level": 0, **options}  # nothing can be timed
    lowered = lower(devices)
    start = time.perf_counter()
    compiled = lowered.compile(compiler_options=options or None)
    seconds = time.perf_counter() - start
    memory, counts, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    if not counts:  # of a program for a GPU: take the operations of the same program for a CPU
        counts = {"flops": lower(this_cpu()).cost_analysis()["flops"], "bytes accessed": 0.0}
    return Compilation(
        program,
        topology,
        len(devices),
        images,
        seconds,
        operations=counts["flops"],
        accessed=counts["bytes accessed"],
        everywhere=sum(cost.size for cost in Module(text, on_chip=True).costs()),
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        costs=Module(text).costs(),
    )


def _group(cost: Cost) -> str:
    """Return the room that asked for an instruction, and the operation; the model has two directions."""
    if cost.opcode.removesuffix("-start") in COLLECTIVES:
        return "collectives"
    room = re.split(r"[/.:]", cost.source)[0] or "no line"
    if room == "model":
        room += ", backward" if "transpose(" in cost.operation else ", forward"
    return f"{room}: {cost.operation.split('/')[-1] or cost.opcode}"


def _described(cost: Cost) -> str:
    times = f" x {cost.times}" if cost.times > 1 else ""
    return f"{cost.opcode} {cost.name}{times}: {cost.operation} ({cost.source or 'no line'})"


def _collective(kind: str, costs: Sequence[Cost]) -> str:
    beside = [cost for cost in costs if cost.overlaps]
    overlap = f", {_megabytes(beside)} in {len(beside)} beside the backward pass" if kind == "all-reduce" else ""
    return f"{len(costs)} {kind} of {_megabytes(costs)}{overlap}"


def _megabytes(costs: Sequence[Cost]) -> str:
    return f"{sum(cost.payload for cost in costs) / 1e6:,.1f} MB"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
