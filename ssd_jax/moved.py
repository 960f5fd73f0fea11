"""Old names of modules: they still work until 0.2, with a warning that names the new one."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

RENAMED = {"ssd_jax.batching": {"decode": "decode_image"}}  # names that changed beside their module's


def moved(old: str, new: str) -> Callable[[str], Any]:
    """Return a module's `__getattr__`, which takes every name of the module `old` from the module `new`."""

    def getattr_of_new(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        new_name = RENAMED.get(old, {}).get(name, name)
        value = getattr(importlib.import_module(new), new_name)
        warnings.warn(f"{old}.{name} is now {new}.{new_name}", DeprecationWarning, stacklevel=2)
        return value

    return getattr_of_new
