"""Checkpoints of a run: its state, and what inference must know to use it. The only file that imports orbax."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict

PyTree = Any
INFERENCE_KEYS = ("params", "batch_stats")


class Checkpoints:
    """The checkpoints in one directory, by step.

    Each holds the whole train state, as NumPy arrays, and a JSON description (model options, prior spec, class
    names) with which `inference.load_detector` needs nothing else. A save that was cut short is never listed.
    """

    def __init__(self, directory: str | Path, *, keep: int = 3, create: bool = True) -> None:
        """Open `directory`, to be made if `create`; the newest `keep` checkpoints stay."""
        self.directory = Path(directory).absolute()
        if not create and not self.directory.is_dir():
            raise FileNotFoundError(f"no checkpoints: there is no folder {self.directory}")
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=create),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "description": ocp.JsonCheckpointHandler(),
            },
        )

    def save(self, step: int, state: PyTree, description: dict[str, Any]) -> None:
        """Start saving in the background; a step that is already there is left as it is."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(to_state_dict(jax.device_get(state))),
                description=ocp.args.JsonSave(description),
            ),
        )

    def latest(self) -> int | None:
        """Return the newest complete step, or None."""
        return self._manager.latest_step()

    def description(self, step: int) -> dict[str, Any]:
        """Return the description saved with `step`."""
        restored = self._manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))
        return restored["description"]

    def restore(self, step: int, target: PyTree) -> PyTree:
        """Restore the whole state of `step` as NumPy arrays in the structure of `target`, whose shapes must agree."""
        plain = to_state_dict(jax.device_get(target))
        saved, wanted = (
            {name: tuple(array.shape) for name, array in flatten_dict(tree, sep="/").items()}
            for tree in (self._tree(step), jax.tree.map(np.asarray, plain))
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
        """Restore what the model needs to be applied, and nothing of the optimiser."""
        tree = self._tree(step)
        return self._restore(step, {key: tree[key] for key in INFERENCE_KEYS})

    def wait(self) -> None:
        """Return when every save that was started is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release the manager's threads."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        """Close at the end of the context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Finish what was started, also after an error."""
        self.close()

    def _tree(self, step: int) -> dict[str, PyTree]:
        return self._manager.item_metadata(step)["state"].tree

    def _restore(self, step: int, item: PyTree) -> PyTree:
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item, restore_args=as_numpy, partial_restore=True)
        return self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]
