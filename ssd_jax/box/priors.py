"""Prior (default) boxes: the released configurations, and the paper's linear formula (SSD, section 2.2)."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ssd_jax.box.geometry import center_to_corner, corner_to_center
from ssd_jax.box.geometry import clip as clip_corners
from ssd_jax.box.numerics import Float


@dataclasses.dataclass(frozen=True)
class PriorSpec:
    """Describe the priors of a model, with the options of Caffe's PriorBox layer.

    Lists, as configs and JSON files give them, become tuples, so that a spec is hashable.

    Attributes:
      image_size: side of the square input, pixels.
      grids: cells along a side of each feature map, largest map first.
      steps: distance between the centres of neighbouring cells of each map, pixels.
      sizes: map k has squares of sides sizes[k] and sqrt(sizes[k] * sizes[k + 1]), pixels; one entry more than maps.
      ratios: aspect ratios of the other boxes of each map; each ratio adds a wide and a tall box.
      offset: place of a centre in its cell, as a fraction of the cell's side.
      clip: clip the corners to the image. Caffe's released configurations do not.
      truncate: drop the fraction of each size, as Caffe's layer does: for weights of SSD512 imported from Caffe.
      clamp_centers: move centres beyond the image's edge onto it (those of the last of SSD300's 10 cells of 32 pixels
        lie at 304): for weights imported from ssd.pytorch and lufficc/SSD.
      clip_sides: cut width and height to the side of the image, around the same centre, as torchvision does.

    Raises:
      ValueError: if the number of entries does not fit the number of maps, or a number is not positive.
    """

    image_size: int
    grids: tuple[int, ...]
    steps: tuple[int | float, ...]
    sizes: tuple[int | float, ...]
    ratios: tuple[tuple[int | float, ...], ...]
    offset: float = 0.5
    clip: bool = False
    truncate: bool = False
    clamp_centers: bool = False
    clip_sides: bool = False

    def __post_init__(self) -> None:
        for name in ("grids", "steps", "sizes", "ratios"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "ratios", tuple(map(tuple, self.ratios)))
        maps = len(self.grids)
        for name, wanted in (("steps", maps), ("sizes", maps + 1), ("ratios", maps)):
            entries = getattr(self, name)
            if len(entries) != wanted:
                raise ValueError(f"PriorSpec.{name} must have {wanted} entries for {maps} maps; got {entries}")
        numbers = (self.image_size, *self.grids, *self.steps, *self.sizes, *sum(self.ratios, ()))
        if min(numbers) <= 0:
            raise ValueError(f"image_size, grids, steps, sizes and ratios must be positive; got {self}")

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Count the boxes in a cell of each map: two squares, and two boxes for each ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)


def linear_spec(
    image_size: int,
    grids: Sequence[int],
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
      image_size: side of the square input, pixels.
      grids: cells along a side of each feature map, largest map first.
      smallest: scale of the first map, as a fraction of the image side.
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
    return PriorSpec(
        image_size=image_size,
        grids=tuple(grids),
        steps=tuple(image_size / grid for grid in grids),
        sizes=tuple(image_size * scale for scale in scales),
        ratios=tuple(tuple(row) for row in ratios),
        clip=clip,
        truncate=truncate,
    )


def make_priors(spec: PriorSpec) -> Float[np.ndarray, "P 4"]:
    """Make the priors [P, 4] float32, centers, fractions of the image side; order: feature map, row, column, shape.

    The shapes of a cell are, in order, the small square, the large square, then for each ratio the wide and the tall
    box.
    """
    sizes = [int(size) for size in spec.sizes] if spec.truncate else spec.sizes
    maps = []
    for k, (grid, step, ratios) in enumerate(zip(spec.grids, spec.steps, spec.ratios, strict=True)):
        centre = (np.arange(grid) + spec.offset) * step
        cy, cx = np.meshgrid(centre, centre, indexing="ij")
        centres = np.stack([cx, cy], axis=-1)[:, :, None]  # [row, column, 1, 2]
        shapes = _shapes(sizes[k], sizes[k + 1], ratios)  # [shape, 2]
        cell = (grid, grid, len(shapes), 2)
        boxes = np.concatenate([np.broadcast_to(centres, cell), np.broadcast_to(shapes, cell)], axis=-1)
        maps.append(boxes.reshape(-1, 4))
    priors = np.concatenate(maps) / spec.image_size  # [P, 4]
    if spec.clamp_centers:
        priors[:, :2] = np.clip(priors[:, :2], 0, 1)
    if spec.clip_sides:
        priors[:, 2:] = np.minimum(priors[:, 2:], 1)
    if spec.clip:
        priors = corner_to_center(clip_corners(center_to_corner(priors)))
    return priors.astype(np.float32)


def _shapes(size: int | float, next_size: int | float, ratios: Sequence[int | float]) -> np.ndarray:
    """Return the (width, height) [shape, 2] of the boxes of a cell."""
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
