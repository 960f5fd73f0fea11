"""The packages of the wheel; setup.cfg has the rest."""

from setuptools import find_packages, setup

# The wheel holds the folder configs/ inside the package, so that configs have names in any folder.
setup(
    packages=[*find_packages(include=["ssd_jax*"]), "ssd_jax.configs"],
    package_dir={"ssd_jax.configs": "configs"},
)
