"""A trained model, ready to find objects in images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.data import UnreadableImage, decode, warp
from ssd_jax.inference.selection import make_detect
from ssd_jax.model import SSD, from_description

PyTree = Any


class Detections(NamedTuple):
    """What was found in one image, best first."""

    boxes: np.ndarray  # [n, 4] float32 corners in pixels, inside the image
    scores: np.ndarray  # [n] float32, softmax probabilities
    labels: np.ndarray  # [n] int32, 1..C-1; class_names[label - 1] is the name

    def above(self, score: float) -> "Detections":
        """Leave out those that score less."""
        return Detections(*(part[self.scores >= score] for part in self))


def to_pixels(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, size: Sequence[int]) -> Detections:
    """Drop padding rows and scale corners to an image of `size` (height, width)."""
    found = np.asarray(labels) > 0
    height, width = size
    scale = np.asarray([width, height, width, height], np.float32)
    return Detections(np.asarray(boxes)[found] * scale, np.asarray(scores)[found], np.asarray(labels)[found])


class Detector:
    """A trained model that finds objects in images of any size.

    Attributes:
      model: the network; `model.spec` has its input size and priors.
      variables: its parameters and BatchNorm statistics.
      class_names: of labels 1, 2, ...
      step: of the checkpoint it was loaded from, if any.
    """

    def __init__(
        self,
        model: SSD,
        variables: PyTree,
        class_names: Sequence[str],
        *,
        step: int | None = None,
        batch_size: int = 8,
        **options: float,
    ) -> None:
        """Prepare to detect `batch_size` images at a time; `options` are those of `select`."""
        self.model, self.variables, self.class_names = model, jax.device_put(variables), tuple(class_names)
        self.step = step
        self._batch_size = batch_size
        self._detect = jax.jit(make_detect(model, **options))

    def __call__(self, images: Sequence[np.ndarray | str | Path]) -> list[Detections]:
        """Detect in `images`: RGB uint8 arrays `[h, w, 3]`, or paths of image files, in a list or the like."""
        if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim != 4):
            raise TypeError("images must be a list of images, got a single one: write detector([image])")
        images = list(images)
        found: list[Detections] = []
        for start in range(0, len(images), self._batch_size):
            chunk = [_pixels(image) for image in images[start : start + self._batch_size]]
            found += self._detect_chunk(chunk)
        return found

    def _detect_chunk(self, images: list[np.ndarray]) -> list[Detections]:
        # The batch is padded to a power of two: a handful of compilations serve every number of images.
        batch = np.zeros((1 << (len(images) - 1).bit_length(), *(self.model.spec.image_size,) * 2, 3), np.uint8)
        for row, image in zip(batch, images, strict=False):
            row[:] = warp(image, self.model.spec.image_size)
        results = jax.device_get(self._detect(self.variables, batch))
        return [to_pixels(*result, image.shape[:2]) for *result, image in zip(*results, images, strict=False)]


def load_detector(directory: str | Path, *, step: int | str | None = None, **options: Any) -> Detector:
    """Load the newest checkpoint of a run, that of `step`, or the "best", given its workdir or folder of checkpoints.

    Everything else, the input size, priors, model and class names, is in the checkpoint. `options` are those of
    `Detector`.
    """
    with Checkpoints.of_run(directory) as checkpoints:
        step = checkpoints.find(step)
        description = checkpoints.description(step)
        variables = checkpoints.restore_variables(step)
    return Detector(
        from_description(description["model"]), variables, description["class_names"], step=step, **options
    )


def _pixels(image: np.ndarray | str | Path) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise ValueError(f"an image must be uint8 RGB [h, w, 3], got {image.dtype} {list(image.shape)}")
        return image
    if not isinstance(image, str | Path):
        raise TypeError(f"an image must be a NumPy array, uint8 RGB [h, w, 3], or a path; got {type(image).__name__}")
    try:
        return decode(Path(image).read_bytes())
    except UnreadableImage as error:
        raise UnreadableImage(f"{image}: {error}") from None
