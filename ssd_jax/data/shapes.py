"""Drawn shapes: a dataset of any length for demos and tests, whose images are drawn when they are read."""

import cv2
import numpy as np

from ssd_jax.box import xywh_to_corner
from ssd_jax.data.example import Example, Source
from ssd_jax.sides import Side, sides_of

SUBPIXEL_BITS = 4  # cv2 draws at 1/16 of a pixel


def _turns(n: int, start: float = -0.25) -> np.ndarray:
    """Return n points on the unit circle, [n, 2], clockwise, by default from the top."""
    angle = 2 * np.pi * (start + np.arange(n) / n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


OUTLINES = {
    "circle": _turns(36),
    "cross": np.array(
        [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
    )
    / 3,
    "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "star": _turns(10) * np.tile([1, 0.42], 5)[:, None],
    "triangle": np.array([(0, -1), (1, 0.8), (-1, 0.8)]),
}  # each [n, 2], (x, y), y downwards


class Shapes(Source):
    """Images of shapes in front of a texture; image i depends only on the seed and on i.

    Shapes lie inside the image, are turned by up to 15 degrees, and have vivid colours, each its own. They cover one
    another, but never so much that less than `min_visible` of a shape can be seen: so every shape in the image is in
    the ground truth. A box is tight around the part that can be seen.
    """

    class_names = tuple(OUTLINES)
    inclusive = False

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        image_size: Side = 96,
        max_objects: int = 5,
        sizes: tuple[float, float] = (0.125, 0.6),
        empty: float = 0.05,
        min_visible: float = 0.6,
    ):
        """Choose what to draw.

        Args:
          length: number of images.
          seed: of everything random; training and evaluation use different ones.
          image_size: side of the images, or (height, width), pixels.
          max_objects: an image with shapes has from 1 to so many, each number equally often.
          sizes: smallest and largest longer side of a shape, fractions of the image's shorter side (log-uniform).
          empty: probability of an image without shapes.
          min_visible: least part of a shape's pixels that can be seen.

        Raises:
          ValueError: an argument is out of its range.
        """
        if length < 1 or seed < 0:
            raise ValueError(f"length must be at least 1 and seed at least 0; got {length}, {seed}")
        self._sides = sides_of(image_size)
        shorter = min(self._sides)
        if shorter < 8:
            raise ValueError(f"image_size must be at least 8; got {image_size}")
        if not 8 / shorter <= sizes[0] <= sizes[1] < 1:
            raise ValueError(
                f"sizes must be two rising fractions of the image, at least 8 pixels and less than 1; got {sizes} of "
                f"{shorter} pixels"
            )
        if not 1 <= max_objects <= 100:
            raise ValueError(f"max_objects must be from 1 to 100; got {max_objects}")
        if not (0 <= empty <= 1 and 0 < min_visible <= 1):
            raise ValueError(f"empty must be in [0, 1] and min_visible in (0, 1]; got {empty}, {min_visible}")
        self.length, self.seed, self.image_size = length, seed, image_size
        self.max_objects, self.sizes, self.empty, self.min_visible = max_objects, sizes, empty, min_visible

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        index = range(self.length)[index]
        random = np.random.default_rng((self.seed, index))
        height, width = self._sides
        image = _texture(random, height, width)
        owner, kinds = self._draw(random, image)  # [H, W], [n]
        boxes = [cv2.boundingRect((owner == k).view(np.uint8)) for k in range(1, len(kinds) + 1)]
        pixels = xywh_to_corner(np.array(boxes, np.float32).reshape(-1, 4))  # [n, 4]
        return Example(
            f"shapes-{self.seed}-{index}",
            image,
            np.asarray(pixels) / np.array([width, height, width, height], np.float32),
            np.array(kinds, np.int32) + np.int32(1),
            np.zeros(len(kinds), bool),
        )

    def _draw(self, random: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Draw shapes into `image`.

        Returns:
          uint8 [H, W]: 0 where a pixel shows the ground, k where it shows the k-th shape; and the kinds of the n
          shapes.
        """
        n = 0 if random.random() < self.empty else int(random.integers(1, self.max_objects + 1))
        wanted = random.integers(0, len(OUTLINES), n)
        colours = _colours(random, n)  # [n, 3]
        owner, kinds = np.zeros(image.shape[:2], np.uint8), []
        full = np.zeros(n + 1)  # number of pixels of each shape if nothing covered it
        for kind, colour, place in zip(wanted, colours, random.random((n, 4)), strict=True):
            outline = [self._place(OUTLINES[self.class_names[kind]], *place)]
            k = len(kinds) + 1
            front = cv2.fillPoly(owner.copy(), outline, k, shift=SUBPIXEL_BITS)
            in_sight = np.bincount(front.ravel(), minlength=n + 1)  # [n + 1]
            if (in_sight[1:k] < self.min_visible * full[1:k]).any():
                continue
            cv2.fillPoly(image, outline, colour.tolist(), cv2.LINE_AA, SUBPIXEL_BITS)
            owner, full[k] = front, in_sight[k]
            kinds.append(int(kind))
        return owner, kinds

    def _place(self, outline: np.ndarray, size: float, turn: float, x: float, y: float) -> np.ndarray:
        """Return the outline in 1/16 pixels, int32 [n, 2]; all four numbers are from 0 to 1."""
        height, width = self._sides
        smallest, largest = self.sizes
        angle = np.pi / 12 * (2 * turn - 1)
        points = outline @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points -= points.min(axis=0)
        points *= min(height, width) * smallest * (largest / smallest) ** size / points.max()
        room = np.array([width, height]) - 1 - points.max(axis=0)  # [2]
        return np.rint((points + room * (x, y)) * 2**SUBPIXEL_BITS).astype(np.int32)


def _texture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a muted ground, uint8 [height, width, 3]: coarse blotches, thin lines, fine noise."""
    cells = int(random.integers(2, 9))
    grey = random.integers(60, 170)
    blotches = grey + random.integers(-30, 31, (cells, cells, 1)) + random.integers(-15, 16, (cells, cells, 3))
    image = cv2.resize(blotches.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    for ends in random.integers(0, max(height, width), (int(random.integers(0, 5)), 4)).tolist():
        level = int(np.clip(grey + random.integers(-50, 51), 20, 220))
        cv2.line(image, ends[:2], ends[2:], (level, level, level), 1, cv2.LINE_AA)
    noise = random.integers(0, 2 ** int(random.integers(1, 6)), image.shape, np.uint8)
    return cv2.add(image, noise)


def _colours(random: np.random.Generator, n: int) -> np.ndarray:
    """Draw n vivid colours, their hues evenly spread, [n, 3]."""
    hue = random.random() + np.arange(n) / max(n, 1)  # [n]
    saturation, value = random.uniform(0.75, 1, (2, n, 1))
    pure = np.clip(np.abs((6 * hue[:, None] + (0, 4, 2)) % 6 - 3) - 1, 0, 1)  # [n, 3]
    return np.rint(255 * value * (1 - saturation * (1 - pure)))
