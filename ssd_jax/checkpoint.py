"""Checkpoints of a run: its state, and what inference needs to use it. The only file that imports orbax."""

import contextlib
import errno
import functools
import itertools
import logging
import math
import os
import sys
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict

from ssd_jax.files import local_folder, read_json, write_json
from ssd_jax.parallel import topology

PyTree = Any
INFERENCE_KEYS = ("params", "batch_stats")
IMPORTED = 0
"""The step of weights that were imported: there is no optimizer state to resume from."""
ITEMS = ("state", "description")
"""The folders that every checkpoint has. "checksums" is missing in those of versions before 0.1."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)
"""What tensorstore says at the end of a long text."""

logger = logging.getLogger("ssd_jax")


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be read as it was written. The message is one line and names its folder."""


class Checkpoints:
    """The checkpoints in one directory, by step.

    Each holds the whole train state as NumPy arrays, a checksum of each array, and a JSON description (model options,
    prior spec, class names), which is all that `inference.load_detector` needs. A save that was cut short is never
    listed.

    Of several processes one saves, and all may read.
    """

    def __init__(self, directory: str | Path, *, keep: int = 3, create: bool = True) -> None:
        """Open `directory` and keep its newest `keep` checkpoints and the best.

        Args:
          directory: a folder of the file system.
          keep: at least 1.
          create: make the folder if it is missing, and remove what saves that were cut short have left: for the run
            that saves. Others only read.

        Raises:
          FileNotFoundError: if the folder is missing and `create` is false.
          ValueError: if `keep` is below 1 or `directory` is no folder of the file system.
        """
        if keep < 1:
            raise ValueError(f"keep_checkpoints must be at least 1; got {keep}")
        self.directory = local_folder(directory).absolute()
        if create:
            self.directory.mkdir(parents=True, exist_ok=True)
        elif not self.directory.is_dir():
            raise FileNotFoundError(f"no checkpoints: there is no folder {self.directory}")
        _hide_errors_of_threads()
        number = topology().process
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_NewestAndBest(keep, self.best),
                create=False,
                cleanup_tmp_directories=create and number == 0,
                # Without these options every process would have to take part in every call.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"process{number}"
                ),
            ),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "description": ocp.JsonCheckpointHandler(),
                "checksums": ocp.JsonCheckpointHandler(),
            },
        )

    @classmethod
    def of_run(cls, directory: str | Path) -> "Checkpoints":
        """Open the checkpoints of a run, given its workdir or its folder of checkpoints."""
        inside = Path(directory) / "checkpoints"
        return cls(inside if inside.is_dir() else directory, create=False)

    def save(self, step: int, state: PyTree, description: dict[str, Any]) -> None:
        """Start to save in the background; a step that is already saved stays as it is.

        Raises:
          OSError: in one line, if this or the last one cannot be written, here or from `wait`, `rate` or `close`.
        """
        if step in self._manager.all_steps():
            return
        arrays = to_state_dict(jax.device_get(state))
        item = ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays),
            description=ocp.args.JsonSave(description),
            checksums=ocp.args.JsonSave(_checksums(arrays)),
        )
        with self._writing():
            self._manager.save(step, args=item)

    def rate(self, step: int, score: float, *, thresholds: Mapping[str, float] | None = None) -> None:
        """Store what an evaluation says of the checkpoint of `step`.

        Args:
          step: of the checkpoint.
          score: the higher the better: the best checkpoint is kept.
          thresholds: see `store_thresholds`.
        """
        self.wait()
        if thresholds is not None:
            self.store_thresholds(step, thresholds)
        write_json(self._score_file(step), score)

    def store_thresholds(self, step: int, thresholds: Mapping[str, float]) -> None:
        """Store the best score threshold of each class with the checkpoint of `step`; nan for an unknown one."""
        write_json(self._thresholds_file(step), dict(thresholds))

    def thresholds(self, step: int) -> dict[str, float] | None:
        """Return what `store_thresholds` stored, or None."""
        file = self._thresholds_file(step)
        if not file.exists():
            return None
        try:
            thresholds = read_json(file)
            if not isinstance(thresholds, dict) or not all(
                isinstance(value, int | float | None) for value in thresholds.values()
            ):
                raise ValueError(f"{file}: thresholds must be numbers by class; got {thresholds!r}")
        except ValueError as error:
            logger.warning("%s; the checkpoint counts as one without thresholds", error)
            return None
        return {name: math.nan if value is None else float(value) for name, value in thresholds.items()}

    def score(self, step: int) -> float | None:
        """Return the score that `rate` stored, or None; NaN for one that was not a number."""
        file = self._score_file(step)
        if not file.exists():
            return None
        try:
            score = read_json(file)
            if not isinstance(score, int | float | None):
                raise ValueError(f"{file}: a score must be a number; got {score!r}")
        except ValueError as error:
            logger.warning("%s; the checkpoint counts as not evaluated", error)
            return None
        return math.nan if score is None else score

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, rising."""
        return sorted(step for step in self._manager.all_steps() if self._is_complete(step))

    def latest(self) -> int | None:
        """Return the newest complete step, `IMPORTED` for imported weights, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Return the step of the highest score, the newest of equals, or None if none has one."""
        scores = ((self.score(step), step) for step in self.steps())
        rated = [(score, step) for score, step in scores if score is not None and not math.isnan(score)]
        return max(rated)[1] if rated else None

    def find(self, step: int | str | None = None) -> int:
        """Return `step` if it is there; the newest for None, the one with the highest score for "best".

        Raises:
          FileNotFoundError: in one line that names the steps there are.
          ValueError: for any other text.
        """
        if isinstance(step, str) and step != "best":
            raise ValueError(f"step must be a number or best; got {step!r}")
        found = {None: self.latest, "best": self.best}[step]() if step in (None, "best") else step
        steps = self.steps()
        if found not in steps:
            what = {None: "no checkpoint", "best": "no evaluated checkpoint"}.get(step, f"no step {step}")
            raise FileNotFoundError(
                f"{what} in {self.directory}" + (f", which has {', '.join(map(str, steps))}" if steps else "")
            )
        return found

    def set_aside(self, keep: Container[int]) -> dict[int, Path]:
        """Rename the folders of all steps but `keep`, so that these can be saved again; return the new paths."""
        renamed = {}
        for step in sorted(self._manager.all_steps()):
            if step not in keep:
                folder = self._folder(step)
                names = (folder.with_name(f"{step}.damaged" + (f"-{n}" if n else "")) for n in itertools.count())
                renamed[step] = folder.rename(next(name for name in names if not name.exists()))
        self._manager.reload()
        return renamed

    def description(self, step: int) -> dict[str, Any]:
        """Return the description saved with `step`.

        Raises:
          DamagedCheckpoint: if it cannot be read.
        """
        description = self._read_json(step, "description")
        for name, kind in (("model", dict), ("class_names", list)):
            if not isinstance(description.get(name), kind):
                raise DamagedCheckpoint(
                    f"{self._folder(step)}: description must have {name}, a {kind.__name__}; "
                    f"got {description.get(name)!r}"
                )
        return description

    @contextlib.contextmanager
    def naming(self, step: int) -> Iterator[None]:
        """Context manager that begins a ValueError about what `step` holds with the checkpoint's folder."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self._folder(step)}: {error}") from error

    def restore(self, step: int, target: PyTree) -> PyTree:
        """Restore the whole state of `step` as NumPy arrays in the structure of `target`.

        `target` holds arrays or, as from `jax.eval_shape`, their shapes and dtypes.

        Raises:
          DamagedCheckpoint: if an array cannot be read or is not the one that was saved.
          ValueError: if names or shapes are not those of `target`.
        """
        plain = to_state_dict(target)
        tree, checksums = self._tree(step)
        saved, wanted = (
            {name: tuple(array.shape) for name, array in _by_path(arrays).items()} for arrays in (tree, plain)
        )
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                there, here = (f"shape {t[name]}" if name in t else "nothing" for t in (saved, wanted))
                raise ValueError(
                    f"{self._folder(step)} is a checkpoint of another model or optimiser: "
                    f"{name} has {there} in it and {here} in this run"
                )
        arrays = self._arrays(step, plain, checksums)
        restored = jax.tree.map(lambda like, array: np.asarray(array, like.dtype), plain, arrays)
        return from_state_dict(target, restored)

    def restore_variables(self, step: int) -> dict[str, PyTree]:
        """Restore only what the model needs to be applied: the averaged variables if the run kept averages.

        Raises:
          DamagedCheckpoint: if an array cannot be read or is not the one that was saved.
          ValueError: if a weight is not finite.
        """
        tree, checksums = self._tree(step)
        if tree.get("ema"):
            variables = self._arrays(step, {"ema": tree["ema"]}, checksums)["ema"]
        else:
            variables = self._arrays(step, {key: tree[key] for key in INFERENCE_KEYS}, checksums)
        for name, array in _by_path(variables).items():
            if not _is_finite(array):
                raise ValueError(f"{self._folder(step)}: weights must be finite; got NaN or infinity in {name}")
        return variables

    def check(self) -> None:
        """Raise the error of a save in the background, if there was one; do not wait.

        Raises:
          OSError: in one line, if a checkpoint could not be written.
        """
        with self._writing():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Return when every save that was started is complete."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release the manager's threads."""
        with self._writing():
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        """Finish what was started, also after an error."""
        self.close()

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _score_file(self, step: int) -> Path:
        return self._folder(step) / "score.json"

    def _thresholds_file(self, step: int) -> Path:
        return self._folder(step) / "thresholds.json"

    def _is_complete(self, step: int) -> bool:
        return all((self._folder(step) / item).is_dir() for item in ITEMS)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:  # tensorstore says ValueError when the disk is full
            refused = [os.strerror(number) for number in DISK_ERRORS if os.strerror(number) in str(error)]
            reason = refused[0] if refused else str(error).splitlines()[0]
            raise OSError(f"cannot save a checkpoint in {self.directory}, those there are whole: {reason}") from error

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turn what Orbax, tensorstore and JSON raise at damaged files, which is of any type, into one line."""
        try:
            yield
        except (DamagedCheckpoint, PermissionError, MemoryError):
            raise
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec=")[0]
            raise DamagedCheckpoint(f"{self._folder(step)}: a checkpoint must be whole; got {reason}") from error

    def _read_json(self, step: int, item: str) -> dict[str, Any]:
        with self._reading(step):
            value = self._manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.JsonRestore()}))[item]
            if not isinstance(value, dict):
                raise TypeError(f"{item} is not a JSON object")
            return value

    def _saved_checksums(self, step: int) -> dict[str, int] | None:
        """Return the checksums saved with `step`, or None in a checkpoint of a version that had none."""
        return self._read_json(step, "checksums") if (self._folder(step) / "checksums").is_dir() else None

    def _tree(self, step: int) -> tuple[dict[str, PyTree], dict[str, int] | None]:
        """Return the names, shapes and dtypes of the arrays of `step`, and their checksums."""
        with self._reading(step):
            metadata = self._manager.item_metadata(step)["state"]
            if metadata is None:
                raise FileNotFoundError("no state/_METADATA")
            checksums = self._saved_checksums(step)
            if checksums is not None and checksums.keys() != _by_path(metadata.tree).keys():
                raise ValueError("other arrays than those that have a checksum")
            return metadata.tree, checksums

    def _arrays(self, step: int, item: PyTree, checksums: dict[str, int] | None) -> PyTree:
        """Read the arrays that `item` names, and compare them with their checksums."""
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item, restore_args=as_numpy, partial_restore=True)
        with self._reading(step):
            arrays = self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]
            if checksums is not None:
                wrong = [name for name, checksum in _checksums(arrays).items() if checksums[name] != checksum]
                if wrong:
                    raise ValueError(f"arrays that differ from their checksums: {', '.join(wrong[:3])}")
        return arrays


class _NewestAndBest:
    """Which checkpoints stay, in the form that Orbax asks for."""

    def __init__(self, keep: int, best: Callable[[], int | None]) -> None:
        self._keep, self._best = keep, best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]  # rising
        staying = {*steps[-self._keep :], self._best()}
        return [step in staying for step in steps]


def _hide_errors_of_threads() -> None:
    """Hide the tracebacks of Orbax's threads: their first error is also raised in our thread, as one line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    if getattr(sys.unraisablehook, "func", None) is not _hide_late_callback:
        sys.unraisablehook = functools.partial(_hide_late_callback, sys.unraisablehook)


def _is_news(record: logging.LogRecord) -> bool:
    if not record.exc_info:
        return True
    return "orbax" not in record.pathname and "[tensorstore_spec=" not in str(record.exc_info[1])


def _hide_late_callback(hook: Callable[[Any], None], unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":  # Orbax closed it at the first error, while others waited
        hook(unraisable)


def _by_path(tree: PyTree) -> dict[str, Any]:
    """Return the arrays of nested dicts by their path, as "params/conv1_1/conv/kernel"."""
    return flatten_dict(tree, sep="/")


def _checksums(tree: PyTree) -> dict[str, int]:
    """Return the checksum of every array, by its path."""
    return {name: _checksum(array) for name, array in _by_path(tree).items()}


def _checksum(array: np.ndarray) -> int:
    """Return the CRC-32 of the sums of an array's 4 KiB blocks, and of the rest.

    A change of any bit changes a sum, and a block in another place changes the CRC. Sums are as fast as memory;
    CRC-32 of all bytes would take more than a tenth of the time of a load.
    """
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = data.size - data.size % 4096
    sums = data[:whole].view(np.uint64).reshape(-1, 512).sum(axis=1)  # modulo 2^64
    return zlib.crc32(data[whole:].data, zlib.crc32(sums.data))


def _is_finite(array: np.ndarray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(array)) or np.isfinite(array).all())  # the sum is fast, but may overflow
