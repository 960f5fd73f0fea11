"""A training starts from published weights, and a workdir of imported ones is evaluated and used."""

import dataclasses
import json

import numpy as np
import pytest
import reference
import tiny
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from writers import pth

from ssd_jax.box import SSD300_VOC
from ssd_jax.checkpoint import Checkpoints
from ssd_jax.loop.detect import detect_images
from ssd_jax.loop.dry_run import dry_run
from ssd_jax.loop.evaluate import evaluate
from ssd_jax.loop.train import train
from ssd_jax.pretrained import load, write_workdir

PROMOTION = "standard"  # optax's schedules promote
CLASSES = ("bright", "dark")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = tiny.Images(8)
    return tiny.write_voc(tmp_path_factory.mktemp("data") / "voc", images, {"train": range(4), "test": range(4, 8)})


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An SSD300 of 20 classes, as narrow as the tests'."""
    path = tmp_path_factory.mktemp("weights") / "ssd300.pth"
    path.write_bytes(pth(reference.random_tensors(reference.ssd_pytorch(6), 6, 21)))
    return path


def config_of(data, **changes):
    config = tiny.config(data).unlock()
    config.spec = ConfigDict(dataclasses.asdict(SSD300_VOC))
    config.update(steps=2, log_every=1, save_every=2, eval_every=0)
    config.data.update(eval="test", class_names=CLASSES)
    config.model.update(norm=None, kernel_init="xavier", backbone="vgg16")
    config.schedule.update(learning_rate=1e-6, warmup_steps=0)
    config.update(changes)
    return config.lock()


def test_a_fine_tune_takes_all_but_the_class_heads_says_so_and_trains(data, published, tmp_path, capsys):
    config = config_of(data, init_from=str(published))
    assert train(config, tmp_path / "run")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "starting from" in line]
    assert line.endswith(
        f"starting from {published} (an SSD of ssd.pytorch): all of it is taken but the class heads, because "
        "its classes differ"
    )
    assert f"starting from {published} (" in dry_run(config, steps=1)
    logged = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in logged if "loss" in row]  # the others are evaluations
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    with Checkpoints(tmp_path / "run" / "checkpoints", create=False) as checkpoints:
        after = flatten_dict(checkpoints.restore_variables(2)["params"], sep="/")
    start = load(published, width=tiny.MODEL.width).params
    for name, array in after.items():
        if name.startswith("conf"):
            assert array.shape[-1] == start[name].shape[-1] // 21 * 3
        else:  # two steps at a rate of 1e-6 are seen but small
            np.testing.assert_allclose(array, start[name], atol=1e-4)
    assert any(not np.array_equal(array, start[name]) for name, array in after.items() if not name.startswith("conf"))


def test_an_imported_workdir_is_evaluated_and_draws(data, tmp_path):
    tensors = reference.random_tensors(reference.lufficc(6), 6, 3)
    (tmp_path / "weights.pth").write_bytes(pth(tensors))
    weights = load(tmp_path / "weights.pth", priors="voc", width=tiny.MODEL.width)
    write_workdir(weights, tmp_path / "run", CLASSES, root=str(data))
    results = evaluate(tmp_path / "run")
    assert (results["split"], results["step"], results["images"]) == ("test", 0, 4)
    assert detect_images(tmp_path / "run", [], tmp_path / "out", samples=2) == 2
    with pytest.raises(ValueError, match=r"holds imported weights: to train from them, pass --config\.init_from="):
        train(config_of(data), tmp_path / "run")
