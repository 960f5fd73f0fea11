"""A trained model, ready to find objects in images. JAX is imported when a detector of a checkpoint is made."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack, overload

import numpy as np
import PIL.Image

from ssd_jax.inference.detections import Detections
from ssd_jax.inference.inputs import Image, read_image
from ssd_jax.inference.stream import Seen, run_stream
from ssd_jax.inference.tiles import check_tiles, merge_windows, tile_windows
from ssd_jax.sides import Side

if TYPE_CHECKING:
    from flax.typing import VariableDict

    from ssd_jax.inference.select_options import SelectOptions
    from ssd_jax.model import SSD

EXPORTED = (".onnx", ".stablehlo")  # the names of exported files end so


class Detector:
    """A trained model that finds objects in images of any size.

    Attributes:
      model: the network; `model.spec` has its input size and priors.
      variables: its parameters and BatchNorm statistics.
      image_size: side of its input, or (height, width), pixels.
      class_names: of labels 1, 2, ...
      step: of the checkpoint it was loaded from, if any.
      batch_size: images of a batch, which an accelerator computes together, and a CPU one by one.
      options: those of `select` that were set.
      thresholds: the score from which F1 is best, by class, if an evaluation of the checkpoint stored it; nan for a
        class of which nothing was found.
    """

    thresholds: Mapping[str, float] | None = None

    def __init__(
        self,
        model: "SSD",
        variables: "VariableDict",
        class_names: Sequence[str],
        *,
        step: int | None = None,
        batch_size: int = 8,
        thresholds: Mapping[str, float] | None = None,
        **options: "Unpack[SelectOptions]",
    ) -> None:
        """Prepare to detect in batches of `batch_size` images.

        Args:
          model: the network.
          variables: {"params": ..., "batch_stats": ...} of the network.
          class_names: of labels 1, 2, ...
          step: of the checkpoint that the variables are from.
          batch_size: see the attribute.
          thresholds: see the attribute.
          **options: of `select`.

        Raises:
          ValueError: for an option that does not exist or has a wrong value.
        """
        import jax

        from ssd_jax.inference.selection import make_detect

        if len(class_names) != model.num_classes - 1:
            raise ValueError(f"class_names must be {model.num_classes - 1} names; got {len(class_names)}")
        self._describe(model.spec.image_size, class_names, step, batch_size)
        self.model, self.options, self.thresholds = model, options, thresholds
        self._detect = jax.jit(make_detect(model, **options))
        self.variables = jax.device_put(variables)

    def _describe(self, image_size: Side, class_names: Sequence[str], step: int | None, batch_size: int) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1; got {batch_size!r}")
        self.image_size, self.class_names, self.step = image_size, tuple(class_names), step
        self.batch_size = batch_size
        self.options: SelectOptions = {}

    def __call__(
        self, images: Iterable[Image], *, bgr: bool = False, tile: int | None = None, overlap: float = 0.2
    ) -> list[Detections]:
        """Detect in all of `images` and return a list, in their order.

        Args:
          images: RGB uint8 arrays [h, w, 3], paths or bytes of image files, or images of PIL. They are read batch by
            batch; for images without an end, or too many for one list, use `stream`.
          bgr: whether arrays are BGR, as OpenCV's are.
          tile: also look at squares of so many pixels, for small objects in large images; the boxes of all are then
            suppressed together. It takes as many times longer as there are tiles.
          overlap: of neighbouring tiles, a fraction of their side, which objects at their edges should fit in.

        Raises:
          TypeError: for a single image, or something that is no image.
          ValueError: for an array that is no RGB image, or a file that cannot be decoded.
          OSError: for a file that cannot be read.
        """
        return list(self.stream(images, bgr=bgr, tile=tile, overlap=overlap))

    @overload
    def stream(
        self,
        images: Iterable[Image],
        *,
        bgr: bool = ...,
        tile: int | None = ...,
        overlap: float = ...,
        prefetch: int = ...,
        return_errors: Literal[False] = ...,
    ) -> Iterator[Detections]: ...

    @overload
    def stream(
        self,
        images: Iterable[Image],
        *,
        bgr: bool = ...,
        tile: int | None = ...,
        overlap: float = ...,
        prefetch: int = ...,
        return_errors: Literal[True],
    ) -> Iterator[Detections | Exception]: ...

    def stream(
        self,
        images: Iterable[Image],
        *,
        bgr: bool = False,
        tile: int | None = None,
        overlap: float = 0.2,
        prefetch: int = 2,
        return_errors: bool = False,
    ) -> Iterator[Detections | Exception]:
        """Detect in images as they come, such as the frames of a video, and yield the answers in their order.

        A thread reads and decodes `images`, at most `prefetch` batches ahead of the network, which works on a batch
        while you use the results of the one before it. An answer never waits for the next image, and memory does not
        grow with the number of images. An array may be used again when the next one is asked for.

        Args:
          images: as in a call, or a generator of them.
          bgr: whether arrays are BGR, as OpenCV's are.
          tile: as in a call.
          overlap: as in a call.
          prefetch: batches that are decoded ahead.
          return_errors: whether the error of an image that cannot be read is yielded in its place. Otherwise it is
            raised there, and ends the stream.

        Raises:
          TypeError: for a single image, or something that is no image.
          ValueError: for an array that is no RGB image, or a file that cannot be decoded.
          OSError: for a file that cannot be read.
        """
        if isinstance(images, str | Path | bytes | PIL.Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim != 4
        ):
            raise TypeError("images must be a list of images; got a single one: write detector([image])")
        results = self.results(
            images,
            read=lambda index, image: read_image(image, bgr=bgr, name=f"image {index}"),
            tile=tile,
            overlap=overlap,
            prefetch=prefetch,
        )
        return (self._answer(result, return_errors) for result in results)

    @staticmethod
    def _answer(result: "Result", return_errors: bool) -> Detections | Exception:
        if isinstance(result.found, Exception) and not return_errors:
            raise result.found
        return result.found

    def results(
        self,
        items: Iterable[Any],
        *,
        read: Callable[[int, Any], np.ndarray] = lambda index, image: read_image(image, name=f"image {index}"),
        tile: int | None = None,
        overlap: float = 0.2,
        prefetch: int = 2,
        keep_images: bool = False,
    ) -> "Iterator[Result]":
        """Detect in anything that `read` makes an image of, and yield each item with what was found in it.

        It works like `stream`, and yields errors like `stream(..., return_errors=True)`.

        Args:
          items: for example pairs of a name and a path.
          read: `read(index, item)` returns RGB uint8 [h, w, 3]; several threads call it. Its ValueError, TypeError or
            OSError is the answer for the item.
          tile: as in a call.
          overlap: as in a call.
          prefetch: batches that are decoded ahead.
          keep_images: whether to yield the images too, for drawing.
        """
        if isinstance(prefetch, bool) or not isinstance(prefetch, int) or prefetch < 1:
            raise ValueError(f"prefetch must be an integer of at least 1; got {prefetch!r}")
        check_tiles(tile, overlap)
        split = None if tile is None else partial(tile_windows, tile=tile, overlap=overlap)
        seen = run_stream(
            self._run,
            items,
            read=read,
            split=split,
            size=self.image_size,
            batch_size=self.batch_size,
            prefetch=prefetch,
            keep_images=keep_images,
        )
        return map(self._result, seen)

    def _result(self, seen: Seen) -> "Result":
        if seen.error is not None:
            return Result(seen.item, None, seen.error, seen.size)
        found = [
            Detections.from_model(*arrays, size=(y1 - y0, x1 - x0), class_names=self.class_names)
            for (x0, y0, x1, y1), arrays in zip(seen.windows, seen.found, strict=True)
        ]
        if len(found) == 1:
            return Result(seen.item, seen.image, found[0], seen.size)
        threshold = self.options.get("iou_threshold", 0.45)
        return Result(seen.item, seen.image, merge_windows(seen.windows, found, iou_threshold=threshold), seen.size)

    def _run(self, batch: np.ndarray) -> Iterable[Any]:
        """Return corners [R, D, 4], scores [R, D] and labels [R, D] of uint8 [B, H, W, 3], maybe still computing.

        Rows after the first B are padding. R is B on a CPU, and a power of two elsewhere: a few compilations serve
        every number of images.
        """
        from ssd_jax.parallel import is_cpu

        detect = partial(self._detect, self.variables)
        if is_cpu():
            return one_by_one(detect, batch)
        rows = 1 << (len(batch) - 1).bit_length()
        return detect(np.pad(batch, ((0, rows - len(batch)), (0, 0), (0, 0), (0, 0))))

    def __reduce__(self) -> tuple[Callable[..., "Detector"], tuple[Any, ...]]:
        """Pickle what the constructor takes; the program is compiled again where it is unpickled."""
        import jax

        from ssd_jax.model import describe

        variables = jax.device_get(self.variables)
        rest = (self.class_names, self.step, self.batch_size, self.thresholds, self.options)
        return _unpickled, (describe(self.model), variables, *rest)


def one_by_one(program: Callable[[np.ndarray], Iterable[Any]], batch: np.ndarray) -> list[np.ndarray]:
    """Run `program` on each row of a batch by itself, as is fastest on a CPU.

    XLA computes a layer for all images before the next one. The maps of one image fit into the caches of a CPU.
    """
    found = [map(np.asarray, program(batch[row : row + 1])) for row in range(len(batch))]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


class Result(NamedTuple):
    """An item of `Detector.results` with what was found in it."""

    item: Any
    image: np.ndarray | None  # RGB uint8 [h, w, 3], if it was asked for
    found: Detections | Exception
    size: tuple[int, int]  # (height, width) of the image; (0, 0) if it could not be read


def _unpickled(
    description: dict[str, Any],
    variables: "VariableDict",
    class_names: Sequence[str],
    step: int | None,
    batch_size: int,
    thresholds: Mapping[str, float] | None,
    options: "SelectOptions",
) -> Detector:
    from ssd_jax.model import from_description

    model = from_description(description)
    return Detector(model, variables, class_names, step=step, batch_size=batch_size, thresholds=thresholds, **options)


def load_detector(
    directory: str | Path,
    *,
    step: int | str | None = None,
    batch_size: int = 8,
    **options: "Unpack[SelectOptions]",
) -> Detector:
    """Load a checkpoint of a run for detection, or a file that `ssd_jax.export` wrote.

    The input size, priors, model and class names are in the checkpoint.

    Args:
      directory: the workdir of the run, its folder of checkpoints, or an exported file: `.onnx` or `.stablehlo`.
      step: a checkpoint's number, or "best"; the newest by default.
      batch_size: of `Detector`.
      **options: of `select`. An exported file has its step and its options.

    Raises:
      FileNotFoundError: if there is no such checkpoint or file.
      ValueError: for a damaged checkpoint or file, or a wrong option.
    """
    if Path(directory).suffix in EXPORTED:
        if step is not None or options:
            given = ", ".join([*(["step"] if step is not None else []), *options])
            raise ValueError(f"{directory}: step and options must be chosen at the export; got {given}")

        from ssd_jax.inference.exported import load_exported

        return load_exported(directory, batch_size=batch_size)

    from ssd_jax.checkpoint import Checkpoints
    from ssd_jax.model import from_description

    with Checkpoints.of_run(directory) as checkpoints:
        step = checkpoints.find(step)
        description = checkpoints.description(step)
        with checkpoints.naming(step):
            model = from_description(description["model"])
        variables = checkpoints.restore_variables(step)
        thresholds = checkpoints.thresholds(step)
    return Detector(
        model,
        variables,
        description["class_names"],
        step=step,
        batch_size=batch_size,
        thresholds=thresholds,
        **options,
    )
