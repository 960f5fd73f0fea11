"""What a chip can do at most, and how long a step takes at least: a roofline."""

import math
from typing import NamedTuple


class Chip(NamedTuple):
    """The figures of one chip, as its maker publishes them.

    Attributes:
      operations: bfloat16 operations a second.
      memory: bytes.
      memory_rate: bytes a second between the memory and the chip.
      ports: links to other chips, two for each axis of a slice.
      send_rate: bytes a second that the chip sends over all of its ports together.
      ring: the smallest side of a slice whose ends are connected, so that both ports of the axis are in use.
    """

    operations: float
    memory: float
    memory_rate: float
    ports: int
    send_rate: float
    ring: int


# Sources: docs.cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, read in November 2026. The rate of sending is the
# all-reduce bandwidth of a pod over its chips (v4: 1.1 PB/s over 4,096; v5e: 51.2 TB/s over 256; v6e: 102.4 TB/s over
# 256), and half of the bidirectional bandwidth of a chip for v5p (1,200 GB/s). The H100 (SXM): NVIDIA's data sheet,
# without sparsity; half of NVLink's 900 GB/s.
CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1200e9, 6, 268e9, 4),
    "v5e": Chip(197e12, 16e9, 819e9, 4, 200e9, 16),
    "v5p": Chip(459e12, 95e9, 2765e9, 6, 600e9, 4),
    "v6e": Chip(918e12, 32e9, 1638e9, 4, 400e9, 16),
    "h100": Chip(989e12, 80e9, 3350e9, 2, 450e9, 2),
}


class Roofline(NamedTuple):
    """The least seconds of a step, if nothing else held it up: each is a lower bound, reached by no real program."""

    arithmetic: float
    memory: float
    interconnect: float

    @property
    def step(self) -> float:
        """Return the seconds of a step whose arithmetic and memory traffic overlap, but its collectives do not."""
        return max(self.arithmetic, self.memory) + self.interconnect

    @property
    def bound(self) -> str:
        """Return what takes the longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(topology: str, *, operations: float, traffic: float, reduced: float) -> Roofline:
    """Compute the least time of a step on a slice.

    Args:
      topology: such as "v5e:4x4".
      operations: of one chip.
      traffic: bytes between the memory of a chip and the chip.
      reduced: bytes that each chip contributes to all-reduces.
    """
    chip = chip_of(topology)
    return Roofline(operations / chip.operations, traffic / chip.memory_rate, all_reduce_seconds(topology, reduced))


def all_reduce_seconds(topology: str, size: float) -> float:
    """Compute the least seconds of an all-reduce of `size` bytes over a slice.

    A chip must send 2 (n - 1) / n of them. It has a port for each direction of an axis, and both are in use where the
    ends of the axis are connected.
    """
    chip, sides = chip_of(topology), sides_of_slice(topology)
    ports = sum(2 if side >= chip.ring else 1 for side in sides if side > 1)
    if not ports:
        return 0.0
    chips = math.prod(sides)
    return 2 * (chips - 1) / chips * size / (chip.send_rate * ports / chip.ports)


def chip_of(topology: str) -> Chip:
    """Return the figures of the chips of a slice such as "v5e:4x4"."""
    return CHIPS[topology.split(":")[0]]


def sides_of_slice(topology: str) -> tuple[int, ...]:
    """Return the chips along each axis of a slice such as "v5e:4x4"."""
    return tuple(int(side) for side in topology.split(":")[1].split("x"))
