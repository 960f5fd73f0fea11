"""The files of a run: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `eval_*.json`."""

import json
import re
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from ssd_jax.fast_cpu import choose_kernels
from ssd_jax.files import read_json, write_json
from ssd_jax.loop.fields import complete, with_defaults


def save_config(config: ConfigDict, workdir: Path) -> None:
    """Keep the resolved config beside the checkpoints it explains."""
    write_json(workdir / "config.json", config.to_dict())


def load_config(workdir: str | Path) -> ConfigDict:
    """Read the config that a run was started with; what it lacks is filled by `fields.defaults`.

    Raises:
      FileNotFoundError: if `workdir` has no `config.json`.
      ValueError: in one line that names the file, if it is damaged.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} is not the workdir of a run: it has no config.json")
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a config must be a JSON object; got {type(values).__name__}")
    try:
        return ConfigDict(with_defaults(values)).lock()  # whatever else it has: another version may have written it
    except (ValueError, KeyError, AttributeError, RecursionError) as error:  # ConfigDict raises all of them
        raise ValueError(f"{path}: {error.args[0] if error.args else error}") from None


def choose_kernels_for(config: ConfigDict) -> None:
    """Do `fast_cpu.choose_kernels` for the network of a config."""
    choose_kernels(config.get("model", {}).get("backbone", "vgg16"))


def choose_kernels_of(workdir: str | Path) -> None:
    """Do the same for the network of a run. A folder without a config is left to who reads it next."""
    if (Path(workdir) / "config.json").is_file():
        choose_kernels_for(load_config(workdir))


def changes(config: ConfigDict, workdir: Path) -> list[str]:
    """List what differs from the config that the run was started with, if it is there: "batch_size 4 (was 2)".

    The model is left out: a checkpoint of another one is refused, and an older config lacks newer options of it.
    """
    if not (workdir / "config.json").exists():
        return []
    before, after = (flatten_dict(jsonlike(c.to_dict()), sep=".") for c in (load_config(workdir), complete(config)))
    return [
        f"{name} {after.get(name)} (was {before.get(name)})"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not name.startswith(("model.", "spec."))
    ]


def split_name(split: str) -> str:
    """Write a split as a part of a file's name: "test[:5]" as "test_5", and "test[5:]" as "test_5-"."""
    return re.sub(r"[^\w+.%~-]+", "_", re.sub(r"(?<=[\d%]):", "-", split)).strip("_")


def jsonlike(value: Any) -> Any:
    """Return `value` as it looks after a trip through JSON: tuples become lists."""
    return json.loads(json.dumps(value))
