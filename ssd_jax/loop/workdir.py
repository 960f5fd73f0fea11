"""The files of a run: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `eval_*.json`."""

import json
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


def load_config(workdir: str | Path) -> ConfigDict:
    """Read the config that a run was started with."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} is not the workdir of a run: it has no config.json")
    return ConfigDict(json.loads(path.read_text())).lock()
