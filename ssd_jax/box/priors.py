"""Prior (default) boxes: the released configurations, and the paper's linear formula (SSD, section 2.2)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssd_jax.box.geometry import center_to_corner, corner_to_center
from ssd_jax.box.geometry import clip as clip_corners
from ssd_jax.box.numerics import Float
from ssd_jax.sides import Side, sides_of

Step = int | float | tuple[int | float, int | float]


@dataclasses.dataclass(frozen=True)
class PriorSpec:
    """Describe the priors of a model, with the options of Caffe's PriorBox layer.

    Whatever has two sides is a number if they are equal, or a pair (vertical, horizontal): an input of height 180 and
    width 320 has `image_size=(180, 320)`, and grids such as (23, 40). Lists, as configs and JSON files give them,
    become tuples, and pairs of equal numbers one number, so that a spec is hashable and written in one way.

    Attributes:
      image_size: side of the input, or (height, width), pixels.
      grids: cells along a side of each feature map, or (rows, columns), largest map first.
      steps: distance between the centres of neighbouring cells of each map, pixels, or (down, across).
      sizes: map k has squares of sides sizes[k] and sqrt(sizes[k] * sizes[k + 1]), pixels; one entry more than maps.
      ratios: aspect ratios of the other boxes of each map; each ratio adds a wide and a tall box.
      offset: place of a centre in its cell, as a fraction of the step; one number, or one for each map.
      clip: clip the corners to the image. Caffe's released configurations do not.
      truncate: drop the fraction of each size, as Caffe's layer does: for weights of SSD512 imported from Caffe.
      clamp_centers: move centres beyond the image's edge onto it (those of the last of SSD300's 10 cells of 32 pixels
        lie at 304): for weights imported from ssd.pytorch and lufficc/SSD.
      clip_sides: cut width and height to the side of the image, around the same centre, as torchvision does.
      shapes: instead of `sizes` and `ratios`, the (width, height) of the boxes in a cell of each map, pixels.

    Raises:
      ValueError: if the number of entries does not fit the number of maps, or a number is not positive.
    """

    image_size: Side
    grids: tuple[Side, ...]
    steps: tuple[Step, ...]
    sizes: tuple[int | float, ...] = ()
    ratios: tuple[tuple[int | float, ...], ...] = ()
    offset: float | tuple[float, ...] = 0.5
    clip: bool = False
    truncate: bool = False
    clamp_centers: bool = False
    clip_sides: bool = False
    shapes: tuple[tuple[tuple[int | float, int | float], ...], ...] = ()

    def __post_init__(self) -> None:
        for name in dataclasses.asdict(self):
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        object.__setattr__(self, "image_size", _side("image_size", self.image_size))
        for name in ("grids", "steps"):
            object.__setattr__(self, name, tuple(_side(name, entry) for entry in getattr(self, name)))
        maps = len(self.grids)
        if self.shapes and (self.sizes or self.ratios):
            raise ValueError(f"PriorSpec must have either shapes or sizes and ratios; got all of them: {self}")
        wanted = {"steps": maps, "offset": maps} | (
            {"shapes": maps} if self.shapes else {"sizes": maps + 1, "ratios": maps}
        )
        for name, count in wanted.items():
            entries = getattr(self, name)
            if isinstance(entries, tuple) and len(entries) != count:
                raise ValueError(f"PriorSpec.{name} must have {count} entries for {maps} maps; got {entries}")
        if not all(shapes and all(np.shape(shape) == (2,) for shape in shapes) for shapes in self.shapes):
            raise ValueError(f"PriorSpec.shapes must have (width, height) pairs for each map; got {self.shapes}")
        fields = (self.image_size, self.grids, self.steps, self.sizes, self.ratios, self.shapes)
        if min(_numbers(fields)) <= 0:
            raise ValueError(f"image_size, grids, steps, sizes, ratios and shapes must be positive; got {self}")

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Count the boxes in a cell of each map: two squares, and two boxes for each ratio; or the shapes."""
        return tuple(map(len, self.shapes)) or tuple(2 + 2 * len(ratios) for ratios in self.ratios)

    @property
    def input_sides(self) -> tuple[int, int]:
        """Return (height, width) of the input, pixels."""
        return sides_of(self.image_size)

    @property
    def mean_side(self) -> float:
        """Return the side of the square that has the input's area, pixels."""
        return math.sqrt(math.prod(self.input_sides))

    @property
    def map_sides(self) -> tuple[tuple[int, int], ...]:
        """Return (rows, columns) of each feature map."""
        return tuple(map(sides_of, self.grids))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _side(name: str, side: Any) -> Any:
    if isinstance(side, tuple) and len(side) != 2:
        raise ValueError(f"PriorSpec.{name} must be a number or a pair (vertical, horizontal); got {side}")
    return side[0] if isinstance(side, tuple) and side[0] == side[1] else side


def _numbers(value: Any) -> list[int | float]:
    return [number for part in value for number in _numbers(part)] if isinstance(value, tuple) else [value]


def linear_spec(
    image_size: Side,
    grids: Sequence[Side],
    *,
    smallest: float = 0.2,
    largest: float = 0.9,
    first: float | None = None,
    ratios: Sequence[Sequence[int | float]] | None = None,
    clip: bool = False,
    truncate: bool = False,
) -> PriorSpec:
    """Make a spec by the paper's formula (section 2.2, eq. 4), for an input of any size.

    Args:
      image_size: side of the input, or (height, width), pixels.
      grids: cells along a side of each feature map, or (rows, columns), largest map first.
      smallest: scale of the first map, as a fraction of the side of the square of the input's area.
      largest: scale of the last map; the scales of the maps between them are spaced evenly.
      first: scale of an extra first map, outside the even spacing (the paper's 0.1 for conv4_3).
      ratios: aspect ratios of each map; by default the paper's: 2 for the first and the last two maps, 2 and 3 for
        the others.
      clip: as in `PriorSpec`.
      truncate: as in `PriorSpec`.

    Returns:
      The spec; its steps are image_size / grid.

    Raises:
      ValueError: if fewer than two maps share the even spacing.
    """
    spaced = len(grids) - (first is not None)
    if spaced < 2:
        raise ValueError(f"grids must have two maps or more beside the first scale; got {grids} and first {first}")
    step = (largest - smallest) / (spaced - 1)
    scales = [smallest + step * k for k in range(spaced + 1)]
    if first is not None:
        scales = [first, *scales]
    if ratios is None:
        four_boxes = (0, len(grids) - 2, len(grids) - 1)
        ratios = [(2.0,) if k in four_boxes else (2.0, 3.0) for k in range(len(grids))]
    height, width = sides_of(_tuples(image_size))
    side = math.sqrt(height * width)
    return PriorSpec(
        image_size=image_size,
        grids=tuple(grids),
        steps=tuple((height / rows, width / columns) for rows, columns in map(sides_of, _tuples(grids))),
        sizes=tuple(side * scale for scale in scales),
        ratios=tuple(tuple(row) for row in ratios),
        clip=clip,
        truncate=truncate,
    )


def retina_spec(image_size: Side, *, smallest: float = 32, maps: int = 5) -> PriorSpec:
    """Make the spec of RetinaNet (arXiv:1708.02002, section 4): nine boxes a cell, of three sizes and three shapes.

    As in torchvision, sizes are rounded down to whole pixels and sides to even ones, and centres lie at the first
    pixel of a cell, which is the centre of its receptive field.

    Args:
      image_size: side of the input, or (height, width), pixels.
      smallest: side of the smallest square of the finest map, pixels; each next map's are twice as large.
      maps: number of maps: of strides 8, 16, 32, ...

    Returns:
      The spec; a cell's boxes are wide, square and tall, of rising size each.
    """
    steps = tuple(8 * 2**k for k in range(maps))
    sides = sides_of(_tuples(image_size))
    shapes = []
    for k in range(maps):
        sizes = [int(smallest * 2 ** (k + third / 3)) for third in range(3)]
        shapes.append([(_even(s / root), _even(s * root)) for root in map(math.sqrt, (0.5, 1, 2)) for s in sizes])
    return PriorSpec(
        image_size=image_size,
        grids=tuple(tuple(-(-side // step) for side in sides) for step in steps),
        steps=steps,
        offset=0.0,
        shapes=tuple(map(tuple, shapes)),
    )


def _even(side: float) -> int:
    return 2 * round(side / 2)


def make_priors(spec: PriorSpec) -> Float[np.ndarray, "P 4"]:
    """Make the priors [P, 4] float32, centers, fractions of the image's sides.

    Their order is feature map, row, column, shape. The shapes of a cell are, in order, the small square, the large
    square, then for each ratio the wide and the tall box; or `spec.shapes`.
    """
    offsets = spec.offset if isinstance(spec.offset, tuple) else (spec.offset,) * len(spec.grids)
    maps = []
    for shapes, sides, step, offset in zip(_shapes(spec), spec.map_sides, spec.steps, offsets, strict=True):
        down, across = ((np.arange(n) + offset) * s for n, s in zip(sides, sides_of(step), strict=True))
        cy, cx = np.meshgrid(down, across, indexing="ij")
        centres = np.stack([cx, cy], axis=-1)[:, :, None]  # [row, column, 1, 2]
        cell = (*sides, len(shapes), 2)
        boxes = np.concatenate([np.broadcast_to(centres, cell), np.broadcast_to(shapes, cell)], axis=-1)
        maps.append(boxes.reshape(-1, 4))
    height, width = spec.input_sides
    priors = np.concatenate(maps) / np.array([width, height, width, height])  # [P, 4]
    if spec.clamp_centers:
        priors[:, :2] = np.clip(priors[:, :2], 0, 1)
    if spec.clip_sides:
        priors[:, 2:] = np.minimum(priors[:, 2:], 1)
    if spec.clip:
        priors = corner_to_center(clip_corners(center_to_corner(priors)))
    return priors.astype(np.float32)


def _shapes(spec: PriorSpec) -> list[np.ndarray]:
    """Return the (width, height) [shape, 2] of the boxes of a cell of each map, pixels."""
    if spec.shapes:
        shapes = [np.array(shapes) for shapes in spec.shapes]
        return [shapes.astype(int) if spec.truncate else shapes for shapes in shapes]
    sizes = [int(size) for size in spec.sizes] if spec.truncate else spec.sizes
    return [_of_size(*args) for args in zip(sizes[:-1], sizes[1:], spec.ratios, strict=True)]


def _of_size(size: int | float, next_size: int | float, ratios: Sequence[int | float]) -> np.ndarray:
    large = math.sqrt(size * next_size)
    shapes = [(size, size), (large, large)]
    for root in map(math.sqrt, ratios):
        shapes += [(size * root, size / root), (size / root, size * root)]
    return np.array(shapes)


_RATIOS_300 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
_RATIOS_512 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))

# From examples/ssd/ssd_pascal.py and ssd_coco.py of Caffe's branch ssd; SSD512's from the files of its weights.
SSD300_VOC = PriorSpec(
    image_size=300,
    grids=(38, 19, 10, 5, 3, 1),
    steps=(8, 16, 32, 64, 100, 300),
    sizes=(30, 60, 111, 162, 213, 264, 315),
    ratios=_RATIOS_300,
)
SSD300_COCO = dataclasses.replace(SSD300_VOC, sizes=(21, 45, 99, 153, 207, 261, 315))
SSD512_VOC = PriorSpec(
    image_size=512,
    grids=(64, 32, 16, 8, 4, 2, 1),
    steps=(8, 16, 32, 64, 128, 256, 512),
    sizes=(35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6),
    ratios=_RATIOS_512,
)
SSD512_COCO = dataclasses.replace(SSD512_VOC, sizes=(20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72))

_RATIOS_320 = ((2.0,), *((2.0, 3.0),) * 5)

# The sizes of SSD300 on six maps whose finest has stride 8, for the light networks.
SSD320_VOC = PriorSpec(
    image_size=320,
    grids=(40, 20, 10, 5, 3, 2),
    steps=(8, 16, 32, 64, 320 / 3, 160),
    sizes=tuple(size * 320 / 300 for size in SSD300_VOC.sizes),
    ratios=_RATIOS_320,
)
SSD320_COCO = dataclasses.replace(SSD320_VOC, sizes=tuple(size * 320 / 300 for size in SSD300_COCO.sizes))
# From ssdlite320_mobilenet_v3_large in torchvision's models/detection/ssdlite.py.
SSDLITE320_COCO = PriorSpec(
    image_size=320,
    grids=(20, 10, 5, 3, 2, 1),
    steps=(16, 32, 64, 320 / 3, 160, 320),
    sizes=(64, 112, 160, 208, 256, 304, 320),
    ratios=((2.0, 3.0),) * 6,
    clip_sides=True,
)

# SSD on ResNet-101 (arXiv:1701.06659), and DSSD: 8 boxes a cell, and centres where the receptive fields of a map lie,
# which is not half a step from the edge; the one cell of the last map has the centre of the image.
_STARTS_321 = (2.5, 2.5, 10.5, 26.5, 90.5, 160.5)  # pixels
_STARTS_513 = (2.5, 2.5, 10.5, 26.5, 58.5, 122.5, 256.5)
_STEPS_321 = (8, 16, 32, 64, 64, 321)
_STEPS_513 = (8, 16, 32, 64, 128, 256, 513)


def _resnet101_spec(image_size: int, grids: tuple[int, ...], percent: tuple[int, ...]) -> PriorSpec:
    steps, starts = (_STEPS_321, _STARTS_321) if image_size == 321 else (_STEPS_513, _STARTS_513)
    return PriorSpec(
        image_size=image_size,
        grids=grids,
        steps=steps,
        sizes=tuple(image_size * p / 100 for p in percent),
        ratios=((1.6, 2.0, 3.0),) * len(grids),
        offset=tuple(start / step for start, step in zip(starts, steps, strict=True)),
        truncate=True,
    )


# The percentages of SSD321 on VOC and SSD513 on COCO are those of the released files. The others follow from the rule
# that made them: from 20 (VOC) or 15 (COCO) percent, 15 (VOC) or 10 (COCO) at 513 pixels, to 95 in even steps.
SSD321_VOC = _resnet101_spec(321, (40, 20, 10, 5, 3, 1), (10, 20, 38, 56, 74, 92, 110))
SSD321_COCO = _resnet101_spec(321, (40, 20, 10, 5, 3, 1), (7, 15, 35, 55, 75, 95, 115))
SSD513_VOC = _resnet101_spec(513, (64, 32, 16, 8, 4, 2, 1), (7, 15, 31, 47, 63, 79, 95, 111))
SSD513_COCO = _resnet101_spec(513, (64, 32, 16, 8, 4, 2, 1), (4, 10, 27, 44, 61, 78, 95, 112))
