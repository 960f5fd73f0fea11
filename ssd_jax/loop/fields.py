"""The fields of a config: their names, types, ranges and defaults."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ssd_jax.augment import AugmentOptions
from ssd_jax.data import ReadOptions, open_source
from ssd_jax.training import make_optimizer, make_schedule

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
    list: (
        "a list of integers",
        lambda value: isinstance(value, list | tuple) and all(type(item) is int for item in value),
    ),
    dict: ("a section", lambda value: isinstance(value, dict)),
    type(None): ("anything", lambda value: True),
}
LARGEST_SEED = 2**63 - 1  # that a key of JAX is made of
# The least values of numbers; what makes the model and the step checks its own options.
LEAST = {
    **dict.fromkeys(("seed", "log_every", "save_every", "eval_every", "stop_after", "max_skipped"), 0),
    **dict.fromkeys(("data.max_unreadable", "data.cache_gb", "data.threads", "eval.images"), 0),
    **dict.fromkeys(("keep_checkpoints", "data.canvas_size", "data.max_boxes", "eval.batch_size"), 1),
}
PLAIN = bool | int | float | str | None  # what JSON holds, beside lists and sections


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
    """Return a locked copy of the config of a run in which `defaults` fill what is missing.

    Raises:
      ValueError: if a field is unknown, has a value of another type than its default or out of its range, or must be
        there and is not.
    """
    values = with_defaults(config.to_dict())
    _check(values, _fields(values))
    _check_plain(values)
    _check_numbers(ConfigDict(values))
    return ConfigDict(values).lock()


def with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Fill what `values` lack by `defaults`, and check the types of these fields, and that the dataset is named."""
    for section, old, new in OLD_NAMES:
        if isinstance(values.get(section), dict) and old in values[section]:
            values[section][new] = values[section].pop(old)
    _fill(values, defaults())
    for name in REQUIRED:
        if not isinstance(values["data"].get(name), str):
            raise ValueError(f"data.{name} must be text; got {values['data'].get(name)!r}")
    return values


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return all fields that the config of a run may have.

    Args:
      values: of the config. The names of layers in `optimizer.rates` are free; `model` and `spec` are checked where
        the model is made.

    Returns:
      a value of the right type for each field; the type itself for one that must be there; None for any type.
    """
    known = defaults() | {"steps": int, "batch_size": int, "model": dict, "spec": dict}
    known["data"] = _options(open_source) | known["data"] | dict.fromkeys(REQUIRED, "")
    known["data"] |= {"canvas_size": int, "image_size": None}
    known["augment"] = dict.fromkeys(_options(AugmentOptions))  # it checks the types
    known["schedule"] = _options(make_schedule) | {"learning_rate": float, "boundaries": []}
    rates = dict.fromkeys(values["optimizer"]["rates"], 1.0)
    known["optimizer"] = _options(make_optimizer) | known["optimizer"] | {"rates": rates}
    return known


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a function that have defaults, with these."""
    return {
        name: option.default
        for name, option in inspect.signature(function).parameters.items()
        if option.kind is option.KEYWORD_ONLY and option.default is not option.empty
    }


def _check(values: dict[str, Any], known: dict[str, Any], section: str = "") -> None:
    """Check the names and types of the fields of a section; `known` is as `_fields` returns it."""
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known) or [other for other in known if other.startswith(name)]
            hint = f"did you mean {section}{close[0]}?" if close else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"a config must have only fields that are known; got {section}{name}; {hint}")
    for name, example in known.items():
        is_required = isinstance(example, type | dict)
        if name in values or is_required:
            kind, fits = KINDS[example if isinstance(example, type) else type(example)]
            if not fits(values.get(name)):
                raise ValueError(f"{section}{name} must be {kind}; got {values.get(name)!r}")
        if isinstance(example, dict):
            _check(values[name], example, f"{section}{name}.")


def _check_numbers(config: ConfigDict) -> None:
    """Check the ranges of numbers that are used only after a run has begun."""
    for name, least in LEAST.items():
        *section, field = name.split(".")
        value = config[section[0]][field] if section else config[field]
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    if config.seed > LARGEST_SEED:
        raise ValueError(f"seed must be at most {LARGEST_SEED}; got {config.seed}")
    if config.stop_after and not config.eval_every:
        raise ValueError(f"eval_every must be above 0 for a run with stop_after; got {config.eval_every}")


def _check_plain(value: Any, name: str = "") -> None:
    """Check that `config.json` can hold a value."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, name)
    elif not isinstance(value, PLAIN):
        raise ValueError(f"{name} must be a number, text, true or false, or a list of these; got {value!r}")


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
