"""`data.strict` reaches training and evaluation: an image that cannot be read ends them."""

import pytest
import tiny

from ssd_jax.data import VOCFolder
from ssd_jax.loop.evaluate import Evaluator
from ssd_jax.loop.train import train

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote
MESSAGE = "^image-1: with strict, every image must be readable; got: the file is cut short"


@pytest.fixture
def root(tmp_path):
    root = tiny.write_voc(tmp_path / "voc", tiny.Images(4), {"train": range(4), "val": range(4)})
    path = root / "JPEGImages" / "image-1.png"
    path.write_bytes(path.read_bytes()[:-100])
    return root


def test_training_stops(root, tmp_path):
    with pytest.raises(ValueError, match=MESSAGE):
        train(tiny.config(root, **{"data.strict": True}), tmp_path / "run")


def test_evaluation_stops(root):
    evaluator = Evaluator(tiny.MODEL, VOCFolder(root, "val", strict=True), tiny.config(root, **{"data.strict": True}))
    with pytest.raises(ValueError, match=MESSAGE):
        evaluator({})
