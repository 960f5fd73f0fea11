"""Picture files."""

import logging
from pathlib import Path

logger = logging.getLogger("ssd_jax")


def read(path: Path) -> bytes:
    """The file; nothing, with a warning, for one that went away since: an unreadable picture, as batching says."""
    try:
        return path.read_bytes()
    except OSError as error:
        logger.warning("%s: %s", path, error.strerror)
        return b""
