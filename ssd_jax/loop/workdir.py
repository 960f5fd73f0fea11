"""The files of a run: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `eval_*.json`."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from ssd_jax.data.image import ReadOptions
from ssd_jax.fast_cpu import choose_kernels
from ssd_jax.files import read_json, write_json

# Fields that had another name before 0.1: section, old name, new name.
OLD_NAMES = (("model", "trunk", "backbone"), ("eval", "pictures", "images"))
REQUIRED = ("source", "train", "eval")  # of the section "data": text

# What may stand where a default of this type does. bool is a subclass of int; JSON has no tuples.
KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    str: ("text", lambda value: isinstance(value, str)),
    tuple: (
        "a list of texts",
        lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
    ),
    dict: ("a section", lambda value: isinstance(value, dict)),
}


def defaults() -> dict[str, Any]:
    """Return the fields that a config may lack, with their values: those that came after the first version.

    A config that was stored by an older version, or written for it, lacks them. So may the `config.json` of imported
    weights, which has no use for most of them. Fields that are arguments of a function (of the model, the optimizer,
    the schedule, the augmentation, the dataset) have their defaults there.
    """
    return {
        "seed": 0,
        "log_every": 50,
        "save_every": 5_000,
        "eval_every": 10_000,
        "stop_after": 0,
        "keep_checkpoints": 3,
        "init_from": "",
        "accumulate": 1,
        "ema_decay": 0.0,
        "max_skipped": 0,
        "data": {
            "root": "",
            "class_names": (),
            "drop_other_classes": False,
            "strict": False,
            "allow_outside": False,
            **dataclasses.asdict(ReadOptions()),
            "max_boxes": 64,
            "train_difficult": True,
            "max_unreadable": 10,
            "cache_gb": 0.0,
            "reduced_decoding": False,
            "threads": 4,
        },
        "optimizer": {"frozen": (), "thaw_step": 0, "rates": {"trunk": 1.0}},
        "eval": {"batch_size": 32, "images": 4},
        "log": {"writers": ("tensorboard",)},
    }


def complete(config: ConfigDict) -> ConfigDict:
    """Return a locked copy of a config in which `defaults` fill what is missing.

    Raises:
      ValueError: if a field has a value of another type than its default, or the dataset is not named.
    """
    values = config.to_dict()
    _fill(values, defaults())
    for name in REQUIRED:
        if not isinstance(values["data"].get(name), str):
            raise ValueError(f"data.{name} must be text; got {values['data'].get(name)!r}")
    return ConfigDict(values).lock()


def save_config(config: ConfigDict, workdir: Path) -> None:
    """Keep the resolved config beside the checkpoints it explains."""
    write_json(workdir / "config.json", config.to_dict())


def load_config(workdir: str | Path) -> ConfigDict:
    """Read the config that a run was started with; what it lacks is filled by `defaults`.

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
    for section, old, new in OLD_NAMES:
        if isinstance(values.get(section), dict) and old in values[section]:
            values[section][new] = values[section].pop(old)
    try:
        return complete(ConfigDict(values))
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


def _fill(values: dict[str, Any], missing: dict[str, Any], section: str = "") -> None:
    """Add to `values` what only `missing` has, and check the types of what both have."""
    for name, default in missing.items():
        if values.get(name) is None:
            values[name] = default
        kind, fits = KINDS[type(default)]
        if not fits(values[name]):
            raise ValueError(f"{section}{name} must be {kind}; got {values[name]!r}")
        if isinstance(default, dict):
            _fill(values[name], default, f"{section}{name}.")
