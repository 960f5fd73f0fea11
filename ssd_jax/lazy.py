"""Names of a package that are imported when they are first used, so that importing a part of it stays cheap."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports a module when one of its names is first used.

    Args:
      package: its `__name__`.
      names: for each module of the package, the names that it gives, separated by spaces.
    """
    modules = {name: f"{package}.{module}" for module, given in names.items() for name in given.split()}

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return import_name
