"""A run of a few steps on a few small images, trained once for all tests of the loop."""

import shutil

import jax
import pytest
import tiny

from ssd_jax.loop.train import train


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "voc"
    return tiny.write_voc(root, tiny.Images(13), {"train": range(8), "val": range(8, 13)})


@pytest.fixture(scope="session")
def workdir(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules and Flax's BatchNorm promote
        train(tiny.config(data), workdir)
    return workdir


@pytest.fixture
def stopped(workdir, tmp_path):
    """The run as if stopped after step 3: the later checkpoints are gone, and the log has lines from beyond it."""
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    for step in ("4", "6"):
        shutil.rmtree(tmp_path / "checkpoints" / step)
    return tmp_path
