"""The files of a run: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `eval_*.json`."""

import json
import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssd_jax.atomic import write_text


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
    before = _fields(load_config(workdir).to_dict())
    after = _fields(json.loads(json.dumps(config.to_dict())))
    return [
        f"{name} {after.get(name)} (was {before.get(name)})"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def split_name(split: str) -> str:
    """Write a split as a part of a file's name: "test[:5]" as "test_5"."""
    return re.sub(r"[^\w+.%-]+", "_", split).strip("_")


def _fields(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a config: {"data.root": ...}."""
    fields: dict[str, Any] = {}
    for name, value in section.items():
        fields |= _fields(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return fields


def load_config(workdir: str | Path) -> ConfigDict:
    """Read the config that a run was started with."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} is not the workdir of a run: it has no config.json")
    return ConfigDict(json.loads(path.read_text())).lock()
