"""Libraries that only an extra installs."""

import importlib
from typing import Any


def import_extra(module: str, extra: str) -> Any:
    """Import a module that the extra `extra` installs.

    Raises:
      ValueError: in one line that says how to install it, if it is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise  # the library is there, but lacks something itself
        raise ValueError(f"{error.name} must be installed: pip install 'ssd_jax[{extra}]'") from None
