"""The files of a run: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `eval_*.json`."""

import json
import re
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from ssd_jax.files import write_text

# Fields of configs that were called otherwise before 0.1: section, old name, new name.
OLD_NAMES = (("model", "trunk", "backbone"), ("eval", "pictures", "images"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_config(config: ConfigDict, workdir: Path) -> None:
    """Keep the resolved config beside the checkpoints it explains."""
    write_json(workdir / "config.json", config.to_dict())


def changes(config: ConfigDict, workdir: Path) -> list[str]:
    """Say what differs from the config that the run was started with, if it is there: "batch_size 4 (was 2)"."""
    if not (workdir / "config.json").exists():
        return []
    before, after = (flatten_dict(jsonlike(c.to_dict()), sep=".") for c in (load_config(workdir), config))
    return [
        f"{name} {after.get(name)} (was {before.get(name)})"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def split_name(split: str) -> str:
    """Write a split as a part of a file's name: "test[:5]" as "test_5"."""
    return re.sub(r"[^\w+.%-]+", "_", split).strip("_")


def jsonlike(value: Any) -> Any:
    """Return `value` as it looks after a trip through JSON: tuples become lists."""
    if isinstance(value, dict):
        return {key: jsonlike(item) for key, item in value.items()}
    return [jsonlike(item) for item in value] if isinstance(value, list | tuple) else value


def load_config(workdir: str | Path) -> ConfigDict:
    """Read the config that a run was started with."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} is not the workdir of a run: it has no config.json")
    config = json.loads(path.read_text())
    for section, old, new in OLD_NAMES:
        if old in config.get(section, {}):
            config[section][new] = config[section].pop(old)
    return ConfigDict(config).lock()
