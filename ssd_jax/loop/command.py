"""What the scripts share."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

import absl.logging


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Run a script's body: libraries log only warnings, and what the user can mend ends the program with one line.

    SSD_JAX_TRACEBACK=1 shows where an error arose.
    """
    absl.logging.set_verbosity(absl.logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("ssd_jax")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SSD_JAX_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
