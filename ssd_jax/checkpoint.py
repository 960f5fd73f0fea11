"""Checkpoints of a run: its state, and what inference must know to use it. The only file that imports orbax."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict

from ssd_jax.files import write_text

PyTree = Any
INFERENCE_KEYS = ("params", "batch_stats")


class Checkpoints:
    """The checkpoints in one directory, by step.

    Each holds the whole train state, as NumPy arrays, and a JSON description (model options, prior spec, class
    names) with which `inference.load_detector` needs nothing else. A save that was cut short is never listed.

    Of several processes one saves, and all may read.
    """

    def __init__(self, directory: str | Path, *, keep: int = 3, create: bool = True) -> None:
        """Open `directory`, to be made if `create`; the newest `keep` checkpoints stay, and the best."""
        if keep < 1:
            raise ValueError(f"keep_checkpoints must be at least 1, got {keep}")
        self.directory = Path(directory).absolute()
        if create:
            self.directory.mkdir(parents=True, exist_ok=True)
        elif not self.directory.is_dir():
            raise FileNotFoundError(f"no checkpoints: there is no folder {self.directory}")
        process = jax.process_index()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_NewestAndBest(keep, self.best),
                create=False,
                # Orbax would have every process take part in every call.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
                ),
            ),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "description": ocp.JsonCheckpointHandler(),
            },
        )

    @classmethod
    def of_run(cls, directory: str | Path) -> "Checkpoints":
        """Open those of a run, given its workdir or its folder of checkpoints."""
        inside = Path(directory) / "checkpoints"
        return cls(inside if inside.is_dir() else directory, create=False)

    def save(self, step: int, state: PyTree, description: dict[str, Any]) -> None:
        """Start saving in the background; a step that is already there is left as it is.

        Raises:
          OSError: in one line, if this or the last one cannot be written, here or from `wait`, `rate` or `close`.
        """
        if step in self._manager.all_steps():
            return
        item = ocp.args.Composite(
            state=ocp.args.PyTreeSave(to_state_dict(jax.device_get(state))),
            description=ocp.args.JsonSave(description),
        )
        with self._writing():
            self._manager.save(step, args=item)

    def rate(self, step: int, score: float) -> None:
        """Note how good the checkpoint of `step` is, the higher the better: the best is kept for as long as it is."""
        self.wait()
        write_text(self._score_file(step), json.dumps(score))

    def score(self, step: int) -> float | None:
        """Return what `rate` noted, or None."""
        file = self._score_file(step)
        return json.loads(file.read_text()) if file.exists() else None

    def latest(self) -> int | None:
        """Return the newest complete step, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Return the step of the highest score, the newest of equals, or None if none has one."""
        scores = {step: self.score(step) for step in sorted(self._manager.all_steps(), reverse=True)}
        rated = [step for step, score in scores.items() if score is not None and not math.isnan(score)]
        return max(rated, key=scores.get, default=None)

    def find(self, step: int | str | None = None) -> int:
        """Return `step` if it is there; the newest for None, the one with the highest score for "best".

        Raises:
          FileNotFoundError: in one line that names the steps there are.
          ValueError: for any other text.
        """
        if isinstance(step, str) and step != "best":
            raise ValueError(f"step is a number or best, got {step!r}")
        found = {None: self.latest, "best": self.best}[step]() if step in (None, "best") else step
        steps = sorted(self._manager.all_steps())
        if found not in steps:
            what = {None: "no checkpoint", "best": "no evaluated checkpoint"}.get(step, f"no step {step}")
            raise FileNotFoundError(
                f"{what} in {self.directory}" + (f", which has {', '.join(map(str, steps))}" if steps else "")
            )
        return found

    def description(self, step: int) -> dict[str, Any]:
        """Return the description saved with `step`."""
        restored = self._manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))
        return restored["description"]

    def restore(self, step: int, target: PyTree) -> PyTree:
        """Restore the whole state of `step` as NumPy arrays in the structure of `target`.

        `target` holds arrays or, as of `jax.eval_shape`, their shapes and dtypes; the shapes must agree.
        """
        plain = to_state_dict(target)
        saved, wanted = (
            {name: tuple(array.shape) for name, array in flatten_dict(tree, sep="/").items()}
            for tree in (self._tree(step), plain)
        )
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                there, here = (f"shape {t[name]}" if name in t else "nothing" for t in (saved, wanted))
                raise ValueError(
                    f"{self.directory / str(step)} is a checkpoint of another model or optimiser: "
                    f"{name} has {there} in it and {here} in this run"
                )
        restored = jax.tree.map(lambda like, array: np.asarray(array, like.dtype), plain, self._restore(step, plain))
        return from_state_dict(target, restored)

    def restore_variables(self, step: int) -> dict[str, PyTree]:
        """Restore what the model needs to be applied, averaged if the run kept averages, and nothing else."""
        tree = self._tree(step)
        if tree.get("ema"):
            return self._restore(step, {"ema": tree["ema"]})["ema"]
        return self._restore(step, {key: tree[key] for key in INFERENCE_KEYS})

    def wait(self) -> None:
        """Return when every save that was started is complete."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release the manager's threads."""
        with self._writing():
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        """Close at the end of the context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Finish what was started, also after an error."""
        self.close()

    def _score_file(self, step: int) -> Path:
        return self.directory / str(step) / "score.json"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:  # tensorstore says ValueError when the disk is full
            reason = str(error).splitlines()[0]
            raise OSError(f"cannot save a checkpoint in {self.directory}, those there are whole: {reason}") from error

    def _tree(self, step: int) -> dict[str, PyTree]:
        return self._manager.item_metadata(step)["state"].tree

    def _restore(self, step: int, item: PyTree) -> PyTree:
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item, restore_args=as_numpy, partial_restore=True)
        return self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]


class _NewestAndBest:
    """Which checkpoints stay, as Orbax asks for it."""

    def __init__(self, keep: int, best: Callable[[], int | None]) -> None:
        self._keep, self._best = keep, best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]  # rising
        staying = {*steps[-self._keep :], self._best()}
        return [step in staying for step in steps]
