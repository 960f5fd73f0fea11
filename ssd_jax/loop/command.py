"""What the scripts share."""

import contextlib
import os
import sys
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Run a script's body: libraries log only warnings, and what the user can mend ends the program with one line.

    SSD_JAX_TRACEBACK=1 shows where an error arose.
    """
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SSD_JAX_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
