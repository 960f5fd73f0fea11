"""A network whose input is wider than high, from training to an exported program."""

import dataclasses

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from ssd_jax.box import PriorSpec
from ssd_jax.export import to_stablehlo
from ssd_jax.inference import load_detector
from ssd_jax.loop.evaluate import evaluate_checkpoint
from ssd_jax.loop.train import train
from ssd_jax.model import variable_shapes

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote
SPEC = PriorSpec(
    image_size=(32, 64),
    grids=((4, 8), (2, 4), (1, 2)),
    steps=(8, 16, 32),
    sizes=(8, 16, 28, 40),
    ratios=((2.0,), (2.0, 3.0), (2.0,)),
)


def test_a_wide_network_trains_evaluates_detects_and_is_exported(tmp_path):
    data = tiny.write_voc(tmp_path / "data", tiny.Images(), {"train": range(8), "val": range(4)})
    config = tiny.config(data, steps=3, eval_every=3).unlock()
    config.spec = ConfigDict(dataclasses.asdict(SPEC))
    train(config.lock(), tmp_path / "run")
    assert evaluate_checkpoint(tmp_path / "run").results["images"] == 4
    detector = load_detector(tmp_path / "run", score_threshold=0.0)
    assert detector.image_size == (32, 64)
    images = [np.full((90, 200, 3), 120, np.uint8), np.full((40, 30, 3), 90, np.uint8)]
    found = detector(images)
    for image, (boxes, scores, _) in zip(images, found, strict=True):
        assert len(scores) and boxes.min() >= 0
        assert (boxes.max(axis=0) <= np.tile(image.shape[1::-1], 2)).all()
    to_stablehlo(detector, tmp_path / "wide.stablehlo")
    exported = load_detector(tmp_path / "wide.stablehlo")
    assert exported.image_size == (32, 64)
    for ours, theirs in zip(found, exported(images), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_grids_of_another_shape_are_refused():
    model = tiny.SHORT.clone(spec=dataclasses.replace(SPEC, grids=((8, 4), (4, 2), (2, 1))))
    with pytest.raises(
        ValueError, match=r"^spec.grids must be the sides of the maps, \(\(4, 8\), \(2, 4\), \(1, 2\)\)"
    ):
        variable_shapes(model)
