"""What the fields of a config may be."""

import pathlib
import re

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from ssd_jax.config_file import config_names, read_config
from ssd_jax.loop.build import build
from ssd_jax.loop.fields import complete


@pytest.mark.parametrize("name", config_names())
def test_our_configs_are_complete(name):
    config = read_config(name)
    assert complete(config).to_dict() == config.to_dict()


def test_a_name_from_before_the_first_release_in_ones_own_config_is_read():
    config = tiny.config("somewhere").unlock()
    config.eval.pictures = 7
    del config.eval["images"]
    assert complete(config).eval.to_dict() == {"batch_size": 4, "images": 7}


UNKNOWN = "^a config must have only fields that are known; got "


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("eval_evry", "did you mean eval_every?"),
        ("ema", "did you mean ema_decay?"),
        ("note", "there are accumulate, augment, .*, steps, stop_after"),
        ("data.max_box", r"did you mean data\.max_boxes?"),
        ("data.kind", "there are allow_outside, cache_gb, .*, train_difficult"),
        ("eval.imges", r"did you mean eval\.images?"),
        ("log.writer", r"did you mean log\.writers?"),
        ("schedule.foo", "there are boundaries, decay, kind, learning_rate, warmup_steps"),
        ("schedule.steps", "there are boundaries, .*"),  # an argument of `make_schedule`, but no field
        ("optimizer.schedule", "there are bias_multiplier, .*"),
        ("augment.crop_scales", r"did you mean augment\.crop_scale?"),
    ],
)
def test_a_misspelt_field_is_one_line_with_the_right_name(field, hint):
    config = tiny.config("somewhere").unlock()
    section, _, name = field.rpartition(".")
    (config[section] if section else config)[name] = 1
    with pytest.raises(ValueError, match=UNKNOWN + re.escape(field) + "; " + hint.replace("?", r"\?") + "$"):
        complete(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", None, "steps must be an integer; got None"),
        ("batch_size", 8.0, "batch_size must be an integer; got 8.0"),
        ("augment", None, "augment must be a section; got None"),
        ("schedule", 3, "schedule must be a section; got 3"),
        ("model", None, "model must be a section; got None"),
        ("spec", None, "spec must be a section; got None"),
        ("data.root", pathlib.PurePosixPath("x"), r"data.root must be text; got PurePosixPath\('x'\)"),
        ("data.canvas_size", None, "data.canvas_size must be an integer; got None"),
        ("data.image_size", np.int64(3), r"data.image_size must be a number, text, true or .*; got np.int64\(3\)"),
        ("schedule.learning_rate", np.float32(1), r"schedule.learning_rate must be a number; got np.float32\(1.0\)"),
        ("schedule.boundaries", (1.5,), r"schedule.boundaries must be a list of integers; got \(1.5,\)"),
        ("optimizer.momentum", "0.9", "optimizer.momentum must be a number; got '0.9'"),
        ("optimizer.rates.head", "0.9", "optimizer.rates.head must be a number; got '0.9'"),
        ("model.width", np.float32(1), r"model.width must be a number, text, .*; got np.float32\(1.0\)"),
        ("spec.sizes", (np.float32(1),), r"spec.sizes must be a number, text, .*; got np.float32\(1.0\)"),
    ],
)
def test_a_field_of_a_wrong_type_or_without_a_value_is_one_line(field, value, message):
    *sections, name = field.split(".")
    values = tiny.config("somewhere").to_dict()
    section = values
    for part in sections:
        section = section[part]
    section[name] = value
    with pytest.raises(ValueError, match=f"^{message}$"):
        complete(ConfigDict(values))
    if value is None:
        del section[name]
        with pytest.raises(ValueError, match=f"^{message}$"):
            complete(ConfigDict(values))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", -1, "seed must be at least 0; got -1"),
        ("seed", 2**63, "seed must be at most 9223372036854775807; got 9223372036854775808"),
        ("eval_every", -1, "eval_every must be at least 0; got -1"),
        ("keep_checkpoints", 0, "keep_checkpoints must be at least 1; got 0"),
        ("eval.batch_size", 0, "eval.batch_size must be at least 1; got 0"),
        ("data.max_unreadable", -1, "data.max_unreadable must be at least 0; got -1"),
        ("data.cache_gb", float("nan"), "data.cache_gb must be at least 0; got nan"),
        ("data.max_boxes", 0, "data.max_boxes must be at least 1; got 0"),
    ],
)
def test_a_number_out_of_its_range_is_refused_before_a_run(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        complete(tiny.config("somewhere", **{field: value}))


def test_the_largest_seed_is_used(data):
    run = build(tiny.config(data, seed=2**63 - 1))
    assert len(next(run.batches()).arrays["images"]) == 4


def test_every_option_of_what_a_config_makes_is_a_field():
    config = tiny.config("somewhere").unlock()
    config.schedule = {"learning_rate": 1e-3}
    options = {name: 1.0 for name in ("weight_decay", "bias_multiplier", "momentum", "clip_norm")}
    config.optimizer = {
        "kind": "sgd",
        "frozen": ("trunk",),
        "thaw_step": 3,
        "rates": {"trunk": 1.0, "any/layer": 0.5},
        **options,
    }
    config.data.image_size = (64, 96)
    assert complete(config).optimizer.to_dict() == config.optimizer.to_dict()
    assert complete(config).schedule.to_dict() == {"learning_rate": 1e-3}
    assert complete(complete(config)).to_dict() == complete(config).to_dict()
