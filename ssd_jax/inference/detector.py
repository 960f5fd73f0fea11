"""A trained model, ready to find objects in images. JAX is imported when a detector of a checkpoint is made."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ssd_jax.data.formats import UnreadableImage
from ssd_jax.data.image import decode_image, warp
from ssd_jax.files import read_bytes
from ssd_jax.inference.detections import Detections

if TYPE_CHECKING:
    from flax.typing import VariableDict

    from ssd_jax.inference.selection import SelectOptions
    from ssd_jax.model import SSD

Image = np.ndarray | str | Path  # RGB uint8 [h, w, 3], or the path of a file


class Detector:
    """A trained model that finds objects in images of any size.

    Attributes:
      model: the network; `model.spec` has its input size and priors.
      variables: its parameters and BatchNorm statistics.
      image_size: side of its square input, pixels.
      class_names: of labels 1, 2, ...
      step: of the checkpoint it was loaded from, if any.
      batch_size: images that the network sees together.
      options: those of `select` that were set.
    """

    def __init__(
        self,
        model: "SSD",
        variables: "VariableDict",
        class_names: Sequence[str],
        *,
        step: int | None = None,
        batch_size: int = 8,
        **options: "Unpack[SelectOptions]",
    ) -> None:
        """Prepare to detect in `batch_size` images at a time.

        Args:
          model: the network.
          variables: {"params": ..., "batch_stats": ...} of the network.
          class_names: of labels 1, 2, ...
          step: of the checkpoint that the variables are from.
          batch_size: images that the network sees together.
          **options: of `select`.

        Raises:
          ValueError: for an option that does not exist or has a wrong value.
        """
        import jax

        from ssd_jax.inference.selection import make_detect

        if len(class_names) != model.num_classes - 1:
            raise ValueError(f"class_names must be {model.num_classes - 1} names; got {len(class_names)}")
        self._describe(model.spec.image_size, class_names, step, batch_size)
        self.model, self.options = model, options
        self._detect = jax.jit(make_detect(model, **options))
        self.variables = jax.device_put(variables)

    def _describe(self, image_size: int, class_names: Sequence[str], step: int | None, batch_size: int) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1; got {batch_size!r}")
        self.image_size, self.class_names, self.step = image_size, tuple(class_names), step
        self.batch_size = batch_size

    def __call__(self, images: Iterable[Image]) -> list[Detections]:
        """Detect in all of `images` and return a list, in their order.

        Args:
          images: RGB uint8 arrays [h, w, 3], or paths of image files. They are read batch by batch; for images
            without an end, or too many for one list, use `stream`.

        Raises:
          TypeError: for a single image, or something that is no image.
          ValueError: for an array that is no RGB image, or a file that cannot be decoded.
          OSError: for a file that cannot be read.
        """
        return list(self.stream(images))

    def stream(self, images: Iterable[Image]) -> Iterator[Detections]:
        """Detect in images as they come, such as the frames of a video.

        Reads one batch of `images`, yields its detections, and only then reads the next batch. Arguments and errors
        are those of a call.
        """
        if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim != 4):
            raise TypeError("images must be a list of images; got a single one: write detector([image])")
        return self._stream(iter(images))

    def _stream(self, images: Iterator[Image]) -> Iterator[Detections]:
        while batch := [_pixels(image) for image in islice(images, self.batch_size)]:
            yield from self._detect_batch(batch)

    def _detect_batch(self, images: list[np.ndarray]) -> list[Detections]:
        # The batch is padded to a power of two: a handful of compilations serve every number of images.
        batch = np.zeros((1 << (len(images) - 1).bit_length(), self.image_size, self.image_size, 3), np.uint8)
        for row, image in zip(batch, images, strict=False):
            row[:] = warp(image, self.image_size)
        results = map(np.asarray, self._run(batch))
        return [
            Detections.from_model(boxes, scores, labels, image.shape[:2])
            for boxes, scores, labels, image in zip(*results, images, strict=False)
        ]

    def _run(self, batch: np.ndarray) -> Iterable[Any]:
        """Return corners [B, D, 4], scores [B, D] and labels [B, D] of uint8 [B, S, S, 3], maybe still computing."""
        return self._detect(self.variables, batch)


def load_detector(
    directory: str | Path,
    *,
    step: int | str | None = None,
    batch_size: int = 8,
    **options: "Unpack[SelectOptions]",
) -> Detector:
    """Load a checkpoint of a run for detection.

    The input size, priors, model and class names are in the checkpoint.

    Args:
      directory: the workdir of the run, or its folder of checkpoints.
      step: a checkpoint's number, or "best"; the newest by default.
      batch_size: of `Detector`.
      **options: of `select`.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      ValueError: for a damaged checkpoint, or a wrong option.
    """
    from ssd_jax.checkpoint import Checkpoints
    from ssd_jax.model import from_description

    with Checkpoints.of_run(directory) as checkpoints:
        step = checkpoints.find(step)
        description = checkpoints.description(step)
        with checkpoints.naming(step):
            model = from_description(description["model"])
        variables = checkpoints.restore_variables(step)
    return Detector(
        model,
        variables,
        description["class_names"],
        step=step,
        batch_size=batch_size,
        **options,
    )


def _pixels(image: Image) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise ValueError(f"an image must be uint8 RGB [h, w, 3]; got {image.dtype} {list(image.shape)}")
        return image
    if not isinstance(image, str | Path):
        raise TypeError(f"an image must be a NumPy array, uint8 RGB [h, w, 3], or a path; got {type(image).__name__}")
    try:
        return decode_image(read_bytes(image))
    except UnreadableImage as error:
        raise UnreadableImage(f"{image}: {error}") from None
