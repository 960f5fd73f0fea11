"""Start a training from published weights, and make a workdir of them."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.files import write_json
from ssd_jax.model import SSD, describe, initialise, variable_shapes
from ssd_jax.pretrained.weights import Weights, load

PyTree = Any
# Fields of a config: where the dataset whose priors a network has is usually evaluated.
DATA = {
    "voc": {"source": "voc_folder", "train": "trainval", "eval": "test"},
    "coco": {"source": "coco_json", "train": "train2017", "eval": "val2017"},
}


def start_from(
    path: str | Path,
    variables: dict[str, PyTree],
    class_names: Sequence[str],
    *,
    width: float = 1.0,
    backbone: str = "",
) -> tuple[dict[str, PyTree], str]:
    """Replace initial variables by those of a file of published weights, or of a workdir's newest checkpoint.

    A file of a backbone gives the backbone. A detector gives everything; if its classes differ, everything but the
    class heads. An SSD gives a DSSD what is before the deconvolution modules, for the first stage of its training.

    Args:
      path: a file or name that `load` reads, or the workdir of a run or of an import.
      variables: {"params": ..., "batch_stats": ...}, the initial ones of the model to train.
      class_names: of that model, in the order of its labels.
      width: of that model.
      backbone: of that model.

    Returns:
      the variables, and one line that says what was taken.

    Raises:
      FileNotFoundError: if there is nothing at `path`.
      ValueError: in one line, for weights that do not fit the model, naming the tensor and both shapes.
    """
    current = _flat(variables)
    heads = {name for name in current if is_of_classes(name)}
    if Path(path).is_dir():
        loaded, names = _of_workdir(Path(path))
        only_backbone, what = False, "a checkpoint of ssd_jax"
    else:
        weights = load(path, unknown_priors="voc", width=width, backbone=backbone)
        loaded = _flat({"params": weights.params, "batch_stats": weights.batch_stats})
        names, only_backbone = weights.class_names, weights.model is None
        what = "; ".join((weights.title, *weights.notes))

    if only_backbone:
        wanted, taken = set(loaded), "the backbone is taken"
    elif any(map(is_deconvolution, current)) and not any(map(is_deconvolution, loaded)):
        loaded, wanted = without_decoded(loaded), set(without_decoded(current))
        taken = "all of it is taken but the heads, because the model deconvolves its maps"
    elif names == tuple(class_names) or (names is None and _same_shapes(loaded, current, heads)):
        wanted, taken = set(current), "all of it is taken"
    else:
        loaded = {name: array for name, array in loaded.items() if not is_of_classes(name)}
        wanted, taken = set(current) - heads, "all of it is taken but the class heads, because its classes differ"
    for name in sorted(wanted | set(loaded)):
        got, rule = (f"shape {list(tree[name].shape)}" if name in tree else "no value" for tree in (loaded, current))
        if got != rule:
            raise ValueError(f"{path}: {name} must have {rule}, as in the model to train; got {got}")
    merged = unflatten_dict({name: jnp.asarray(array) for name, array in (current | loaded).items()}, sep="/")
    return {"params": merged["params"], "batch_stats": merged.get("batch_stats", {})}, f"{path} ({what}): {taken}"


def is_of_classes(name: str) -> bool:
    """Tell whether the shape of a variable depends on the number of classes.

    Such are "params/conf0/conv/kernel" and "params/predict0/conf/conv/kernel".
    """
    return any(
        re.fullmatch(r"conf\d*", head) and layer == "conv" for head, layer in itertools.pairwise(name.split("/"))
    )


def is_deconvolution(name: str) -> bool:
    """Tell whether a variable is of a deconvolution module, such as "params/deconv0/up/kernel"."""
    return re.match(r"\w+/deconv\d+/", name) is not None


def without_decoded(variables: dict[str, Any]) -> dict[str, Any]:
    """Leave out deconvolution modules and the heads, which predict from what these make.

    No module makes the last map, and the residual block of its head, which sees what it sees in an SSD, stays. Its
    two predictions do not: the original draws them anew too.
    """
    modules = {name: re.match(r"\w+/(?:deconv|predict|loc|conf)(\d+)/(\w+)", name) for name in variables}
    last = max((int(module[1]) for module in modules.values() if module), default=-1)
    return {
        name: variables[name]
        for name, module in modules.items()
        if module is None or module.groups() == (str(last), "block")
    }


def write_workdir(weights: Weights, workdir: str | Path, class_names: Sequence[str], *, root: str = "") -> None:
    """Write a workdir that `ssd-jax eval` and `ssd-jax detect` can use: `config.json`, and a checkpoint of step 0.

    Args:
      weights: of a detector.
      workdir: made if it is missing; it must have no checkpoint.
      class_names: of labels 1, 2, ....
      root: the folder of the dataset to evaluate on.

    Raises:
      ValueError: for a backbone, for another number of class names, or if there is a checkpoint already.
    """
    workdir = Path(workdir)
    if weights.model is None or weights.dataset is None:
        raise ValueError(
            f"weights of a workdir must be a detector's; got {weights.title}, which config.init_from takes"
        )
    if len(class_names) != weights.model.num_classes - 1:
        raise ValueError(f"class_names must be {weights.model.num_classes - 1}; got {len(class_names)}")
    params = unflatten_dict(_initial(weights.model, set(weights.params)) | weights.params, sep="/")
    batch_stats = unflatten_dict(weights.batch_stats, sep="/")
    description = {"model": describe(weights.model), "class_names": list(class_names)}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.latest() is not None:
            raise ValueError(f"{workdir}: the workdir must have no checkpoint; got one that has")
        checkpoints.save(0, {"step": np.int32(0), "params": params, "batch_stats": batch_stats}, description)
    data = DATA[weights.dataset] | {"root": root, "class_names": list(class_names)}
    write_json(workdir / "config.json", {"imported": [weights.title, *weights.notes], "data": data})


def _initial(model: SSD, there: set[str]) -> dict[str, Any]:
    """Return initial parameters if some are not `there`."""
    if there == set(flatten_dict(variable_shapes(model)["params"], sep="/")):
        return {}
    return flatten_dict(initialise(model, jax.random.key(0))["params"], sep="/")


def _of_workdir(workdir: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    with Checkpoints.of_run(workdir) as checkpoints:
        step = checkpoints.find()
        names = tuple(checkpoints.description(step)["class_names"])
        return _flat(checkpoints.restore_variables(step)), names


def _flat(variables: dict[str, PyTree]) -> dict[str, Any]:
    return flatten_dict({name: tree for name, tree in variables.items() if tree}, sep="/")


def _same_shapes(a: dict[str, Any], b: dict[str, Any], names: set[str]) -> bool:
    return all(name in a and name in b and a[name].shape == b[name].shape for name in names)
