"""The text of a program that XLA compiled: what each instruction reads from memory and writes to it, and its source.

A program's text is that of `jax.stages.Compiled.as_text()`. Bytes are those of the arrays as they lie in the device's
memory, padded to the tiles of their layout. Arrays that the compiler keeps on the chip (memory spaces above 0) count
nothing unless asked for, and of a slice or a gather only the part that is read.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
STARTS, ENDS = ([kind + end for kind in COLLECTIVES] for end in ("-start", "-done"))
# These move nothing: they name, group or await arrays.
NO_TRAFFIC = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("optimization-barrier", "domain", "add-dependency"),
)
FAR = 5  # lines between a copy and the instruction that it is for
READS_A_PART = ("slice", "dynamic-slice", "gather", "slice-start", "dynamic-slice-start")
LINE = re.compile(r"\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)")
MEMORY_SPACE = re.compile(r"S\([1-9]\d*\)")  # of a layout, but for 0, the device's memory
ARRAY = re.compile(r"(?P<type>[a-z]\w*)\[(?P<sides>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?")
CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|true_computation|false_computation)=\{?(%[^,}]+(?:, %[^,}]+)*)"
)


class StoredArray(NamedTuple):
    """An array of a program: its bytes with the padding of its tiles, and whether it lies in the device's memory."""

    size: int
    in_memory: bool


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    opcode: str
    results: tuple[StoredArray, ...]
    operands: tuple[str, ...]
    attributes: str  # the rest of the line
    is_root: bool


class Cost(NamedTuple):
    """What an instruction does to the device's memory.

    Attributes:
      name: of the instruction.
      opcode: what it does, such as "fusion" or "all-reduce".
      operation: the path of the operation in the traced program, such as "jvp(SSD)/trunk/conv1_2/conv".
      source: "file.py:line" of the innermost line of this package that asked for it, or "".
      size: bytes read and written, all repetitions together.
      payload: bytes of its operands, wherever they lie: what a collective reduces.
      times: how often it runs: 1 but in loops of a known length.
      overlaps: whether gradients are computed between its start and its end.
    """

    name: str
    opcode: str
    operation: str
    source: str
    size: int
    payload: int
    times: int
    overlaps: bool = False


class Module:
    """A compiled program (XLA: an HLO module), read from its text."""

    def __init__(self, text: str, *, on_chip: bool = False) -> None:
        """Read the text of a program; `on_chip` also counts the arrays that stay on the chip."""
        if on_chip:
            text = MEMORY_SPACE.sub("", text)
        self.frames = _stack_frames(text)
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line.endswith("{") and (header := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif (match := LINE.fullmatch(line)) and line.startswith(" "):
                current[match["name"]] = _instruction(line, match)

    def costs(self) -> list[Cost]:
        """Return the cost of every instruction that runs, the largest first.

        The body of a loop counts as often as it runs if its condition compares a counter with a constant, else once.
        """
        return sorted(self._costs(self.entry, 1), key=lambda cost: -cost.size)

    def _costs(self, computation: str, times: int) -> Iterator[Cost]:
        lines = self.computations[computation]
        users = {name: line for line in reversed(lines.values()) for name in line.operands}  # the first of each
        for line in lines.values():
            called = _called(line)
            if line.opcode == "while":
                yield from self._costs(called[0], times * self._trips(line))
            elif line.opcode in ("call", "conditional"):
                for branch in called:
                    yield from self._costs(branch, times)
            elif line.opcode not in NO_TRAFFIC and not line.opcode.endswith("-done"):
                operation, source = self._origin(lines, users, line)
                payload = sum(array.size for name in line.operands for array in lines[name].results)
                size = self._size(lines, line)
                sizes = times * size, times * payload
                yield Cost(line.name, line.opcode, operation, source, *sizes, times, _overlaps(lines, line))

    def _size(self, lines: dict[str, Instruction], line: Instruction) -> int:
        """Return the bytes that one run of a line reads and writes."""
        if line.opcode == "custom-call" and '"AllocateBuffer"' in line.attributes:
            return 0
        results = line.results
        if line.opcode == "copy-start":  # (destination, source, context)
            results = results[:1]
        elif line.opcode == "slice-start":  # ((source), destination, ...)
            results = results[1:2]
        elif line.opcode.endswith("-start") and len(results) == 2 * len(line.operands):
            results = results[len(line.operands) :]
        read, written = self._read(lines, line), _in_memory(results)
        if (update := self._update(lines, line)) is not None:  # in place: the rest of the array stays
            return min(read, 2 * update) if line.opcode == "dynamic-update-slice" else read + update
        return read + written

    def _read(self, lines: dict[str, Instruction], line: Instruction) -> int:
        """Return the bytes of the operands that a line reads."""
        sizes = [_in_memory(lines[name].results) for name in line.operands]
        if line.opcode in READS_A_PART:
            part = sum(array.size for array in line.results[1:2] or line.results)
            return min(sizes[0], part) + sum(sizes[1:])
        if line.opcode == "fusion":
            inner = self.computations[_called(line)[0]]
            return sum(min(size, _part_read(inner, k, whole=size)) for k, size in enumerate(sizes))
        return sum(sizes)

    def _update(self, lines: dict[str, Instruction], line: Instruction) -> int | None:
        """Return the bytes that a line writes into a part of its first operand; None for any other line."""
        if line.opcode == "fusion":
            lines = self.computations[_called(line)[0]]
            line = next(inner for inner in lines.values() if inner.is_root)
        if line.opcode != "dynamic-update-slice":
            return None
        return sum(array.size for array in lines[line.operands[1]].results)

    def _trips(self, loop: Instruction) -> int:
        """Return how often a loop runs whose condition is `counter < constant`; 1 if it is another."""
        condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
        text = list(self.computations[condition[1]].values()) if condition else []
        limits = [int(n) for line in text if line.opcode == "constant" and (n := _integer(line)) is not None]
        is_counter = any("direction=LT" in line.attributes for line in text)
        for line in text:  # TPU programs put the comparison into a fusion
            if line.opcode == "fusion":
                inner = self.computations[_called(line)[0]].values()
                is_counter |= any("direction=LT" in other.attributes for other in inner)
                limits += [n for other in inner if (n := _integer(other)) is not None]
        return limits[0] if is_counter and len(limits) == 1 else 1

    def _origin(
        self, lines: dict[str, Instruction], users: dict[str, Instruction], line: Instruction
    ) -> tuple[str, str]:
        """Return the traced operation of a line and its place in this package.

        A copy that the compiler added has none: it has those of what uses it, or else of what made it.
        """
        chains = _chain(line, lambda line: users.get(line.name)), _chain(line, lambda line: _maker(lines, line))
        for link in itertools.chain(*chains):
            if source := self._source(link.attributes):
                return _operation(link.attributes), source
        return _operation(line.attributes), ""

    def _source(self, attributes: str) -> str:
        if frame := re.search(r"stack_frame_id=(\d+)", attributes):
            places = self.frames.get(int(frame[1]), [])
        elif place := re.search(r'source_file="([^"]*)" source_line=(\d+)', attributes):
            places = [(place[1], int(place[2]))]
        else:
            places = []
        for file, number in places:  # from the innermost
            if PACKAGE in Path(file).parents:
                return f"{Path(file).relative_to(PACKAGE)}:{number}"
        return ""


def _instruction(line: str, match: re.Match[str]) -> Instruction:
    rest = match["rest"]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, rest = rest.split("(", 1)
    end = _closing("(" + rest, 0) - 1
    is_leaf = opcode in ("constant", "parameter")  # whose parentheses hold a number
    operands = () if is_leaf else tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
    attributes = rest if is_leaf else rest[end:]
    arrays = tuple(_array(found) for found in ARRAY.finditer(kind))
    return Instruction(match["name"], opcode, arrays, operands, attributes, line.lstrip().startswith("ROOT "))


def _closing(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"a program's line must close its parentheses; got {text[:60]}")


def _array(found: re.Match[str]) -> StoredArray:
    """Read such as "f32[2,300,300,64]{3,2,1,0:T(8,128)S(1)}": type, sides, order of the axes, tiles, memory space."""
    sides = [int(side) for side in found["sides"].split(",") if side]
    layout = found["layout"] or ""
    order = [int(axis) for axis in layout.split(":")[0].split(",") if axis]  # from the innermost axis
    sides = [sides[axis] for axis in reversed(order)] or sides
    if tile := re.search(r"T\(([\d,]+)\)", layout):
        tiles = [int(side) for side in tile[1].split(",")][-len(sides) :] if sides else []
        start = len(sides) - len(tiles)
        sides[start:] = [-(-side // tile) * tile for side, tile in zip(sides[start:], tiles, strict=True)]
    bits = re.fullmatch(r"[a-z]+(\d+).*", found["type"])
    in_memory = not MEMORY_SPACE.search(layout) and found["type"] != "token"
    return StoredArray(math.ceil(math.prod(sides) * (int(bits[1]) if bits else 8) / 8), in_memory)


def _in_memory(arrays: Sequence[StoredArray]) -> int:
    return sum(array.size for array in arrays if array.in_memory)


def _part_read(inner: dict[str, Instruction], number: int, *, whole: int) -> int:
    """Return the bytes that a fusion reads of its operand `number`: `whole` if not only slices of it are used."""
    parameter = next(line for line in inner.values() if line.opcode == "parameter" and _integer(line) == number)
    uses = [line for line in inner.values() if parameter.name in line.operands]
    part = 0
    for line in uses:
        if line.opcode in READS_A_PART and line.operands[0] == parameter.name:
            part += sum(array.size for array in line.results)
        elif not (line.opcode == "dynamic-update-slice" and line.operands[0] == parameter.name):
            return whole
    return part


def _chain(line: Instruction, following: Callable[[Instruction], Instruction | None]) -> Iterator[Instruction]:
    """Yield a line, the one that follows it, and so on, up to `FAR` lines."""
    link: Instruction | None = line
    for _ in range(FAR):
        if link is None:
            return
        yield link
        link = following(link)


def _overlaps(lines: dict[str, Instruction], line: Instruction) -> bool:
    """Return whether gradients are computed between the start of a collective and its end, by the schedule."""
    if line.opcode not in STARTS:
        return False
    later = itertools.dropwhile(lambda other: other is not line, lines.values())
    between = itertools.takewhile(lambda other: not (other.opcode in ENDS and line.name in other.operands), later)
    return any(_computes(other) and "transpose(" in _operation(other.attributes) for other in between)


def _computes(line: Instruction) -> bool:
    return line.opcode not in NO_TRAFFIC and not line.opcode.endswith(("-start", "-done"))


def _maker(lines: dict[str, Instruction], line: Instruction) -> Instruction | None:
    return lines[line.operands[0]] if line.operands else None


def _called(line: Instruction) -> list[str]:
    return [name.lstrip("%") for found in CALLED.finditer(line.attributes) for name in found[1].split(", ")]


def _integer(line: Instruction) -> int | None:
    """Return the number of a parameter, or the value of a constant that is an integer."""
    found = re.match(r"\(?(\d+)\)", line.attributes) if line.opcode in ("constant", "parameter") else None
    return int(found[1]) if found else None


def _operation(attributes: str) -> str:
    found = re.search(r'op_name="([^"]*)"', attributes)
    return re.sub(r"^jit\(\w+\)/(shard_map/|pmap\(\w+\)/)?", "", found[1]) if found else ""


def _stack_frames(text: str) -> dict[int, list[tuple[str, int]]]:
    """Return (file, line) of each stack frame and its callers, the innermost first, from the tables of the text."""
    tables: dict[str, dict[int, str]] = {}
    rows: dict[int, str] = {}
    for line in text.splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            rows = tables[line] = {}
        elif found := re.match(r'(\d+) (".*"|\{.*\})$', line):
            rows[int(found[1])] = found[2]
        elif line.endswith("{"):
            break

    def field(row: str, name: str) -> int:
        found = re.search(rf"\b{name}=(\d+)", row)
        return int(found[1]) if found else 0

    locations, stack = tables.get("FileLocations", {}), tables.get("StackFrames", {})
    places = {
        number: (tables["FileNames"][field(row, "file_name_id")].strip('"'), field(row, "line"))
        for number, row in locations.items()
    }
    frames = {}
    for number in stack:
        frame, walked = number, []
        while frame in stack:
            walked.append(places[field(stack[frame], "file_location_id")])
            frame = field(stack[frame], "parent_frame_id") - 1  # 1 is no frame
        frames[number] = walked
    return frames
