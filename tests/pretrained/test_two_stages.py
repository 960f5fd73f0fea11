"""DSSD is trained from an SSD in two stages, as the configs say."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.config_file import read_config
from ssd_jax.loop.build import build_model
from ssd_jax.loop.train import train
from ssd_jax.model import compile_to_run_once, describe, init_variables, make, variable_shapes
from ssd_jax.pretrained import start_from

PROMOTION = "standard"  # optax's schedules promote
NAMES = ("ssd321", "ssd513", "dssd321", "dssd513")
STEPS = 2
# On the fewest layers that compile fast.
SSD = tiny.RESIDUAL.clone(backbone="short", spec=tiny.SPEC)
DSSD = SSD.clone(deconvolution=True)


@pytest.mark.parametrize("dataset", ["voc", "coco"])
@pytest.mark.parametrize("name", NAMES)
def test_a_config_makes_the_model_of_its_name(name, dataset):
    classes = {"voc": 21, "coco": 81}[dataset]
    for stage in ("", ":stage1", ":stage2") if name.startswith("d") else ("",):
        config = read_config(f"{name}_{dataset}{stage}")
        model = build_model(config, classes)
        assert model.clone(freeze_norm=()) == make(name, classes, dataset)
        assert config.data.source == {"voc": "voc_folder", "coco": "coco_json"}[dataset]
        assert max(config.schedule.boundaries) < config.steps


def test_another_stage_is_refused():
    with pytest.raises(ValueError, match=r"must be stage1 or stage2; got 'stage3'$"):
        read_config("dssd513_coco:stage3")


def narrow(name, root, **changes):
    """Return a config with the model, the optimizer and what is frozen of one of ours, small enough for a test."""
    config, theirs = tiny.config(root).unlock(), read_config(name)
    config.spec = ConfigDict(dataclasses.asdict(DSSD.spec))
    config.optimizer, config.schedule = theirs.optimizer, theirs.schedule
    config.model = theirs.model.unlock()
    small = {field: describe(DSSD)[field] for field in ("width", "backbone", "kernel_init")}
    config.model.update(small)
    config.schedule.update(kind="constant", learning_rate=1e-4)
    config.update(steps=STEPS, log_every=1, save_every=STEPS, eval_every=0, ema_decay=0.0, **changes)
    return config.lock()


def save(variables, workdir):
    """Write the workdir of an SSD."""
    description = {"model": describe(SSD), "class_names": ["bright", "dark"]}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(STEPS, {"step": np.int32(STEPS), **variables}, description)


def drawn(model):
    """Draw variables; the statistics are those of noise."""

    @compile_to_run_once
    def draw(key):
        variables = init_variables(model, key)
        images = 50 * jax.random.normal(key, (4, *model.spec.input_sides, 3))
        return variables | model.apply(variables, images, train=True, mutable=["batch_stats"])[1]

    return jax.device_get(draw(jax.random.key(0)))


def last(workdir):
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        return flatten_dict(checkpoints.restore_variables(STEPS), sep="/")


def same(a, b, names):
    return all(np.array_equal(a[name], b[name]) for name in names)


def test_both_stages_train_from_an_ssd(tmp_path, capsys):
    images = tiny.Images(8)
    root = tiny.write_voc(tmp_path / "voc", images, {"train": range(4), "val": range(4, 8)})
    ssd = drawn(SSD)
    save(ssd, tmp_path / "ssd")
    train(narrow("dssd321_voc", root, init_from=str(tmp_path / "ssd")), tmp_path / "stage1")
    assert "all of it is taken but the heads, because the model deconvolves its maps" in capsys.readouterr().out
    train(narrow("dssd321_voc:stage2", root, init_from=str(tmp_path / "stage1")), tmp_path / "stage2")
    ssd, first, second = flatten_dict(ssd, sep="/"), last(tmp_path / "stage1"), last(tmp_path / "stage2")

    encoder = [name for name in first if name.split("/")[1].startswith(("trunk", "res"))]
    modules = {name.split("/")[1] for name in first.keys() - set(encoder)} - {"conv4_3_norm"}
    assert modules == {f"deconv{k}" for k in range(2)} | {f"predict{k}" for k in range(3)}
    assert len(encoder) > 40 and same(ssd, first, encoder)
    norms = [name for name in second if "/norm/" in name]
    assert first.keys() == second.keys() and same(first, second, norms)
    # A head whose map has neither a positive prior nor a hard negative has no gradient.
    moved = [name for name in second if name not in norms and "predict" not in name]
    assert len(moved) == 20 and not any(np.array_equal(first[name], second[name]) for name in moved)


@pytest.fixture
def ssd(tmp_path):
    """The workdir of an SSD321 of which every number is 1."""
    save(filled(SSD, 1), tmp_path / "run")
    return tmp_path / "run"


def filled(model, value):
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), variable_shapes(model))


def taken(path, model, class_names):
    """Return which parameters of a model are not taken from a workdir, and the line that says so."""
    variables, line = start_from(path, filled(model, 0), class_names)
    numbers = flatten_dict(variables["params"], sep="/")
    assert all(np.all(array == array.flat[0]) for array in map(np.asarray, numbers.values()))
    return {name for name, array in numbers.items() if not np.any(array)}, line


def test_of_an_ssds_heads_a_dssd_takes_the_residual_block_of_the_last_map(ssd):
    new, _ = taken(ssd, DSSD, ("bright", "dark"))
    assert {name.split("/")[0] for name in new} == {f"deconv{k}" for k in range(2)} | {
        f"predict{k}" for k in range(3)
    }
    assert {name.split("/")[1] for name in new if name.startswith("predict2")} == {"loc", "conf"}
    assert {name.split("/")[1] for name in new if name.startswith("predict0")} == {"block", "loc", "conf"}


def test_an_ssd_of_other_classes_takes_all_but_the_class_heads(ssd):
    new, line = taken(ssd, SSD.clone(num_classes=6), tuple("abcde"))
    assert new == {f"predict{k}/conf/conv/{leaf}" for k in range(3) for leaf in ("kernel", "bias")}
    assert line.endswith("all of it is taken but the class heads, because its classes differ")
