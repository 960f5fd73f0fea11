"""What a workdir's config.json may look like."""

import json
import os
import pathlib
import re

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from configs import ssd300_voc
from ssd_jax.config_file import config_names, read_config
from ssd_jax.files import read_json, write_json
from ssd_jax.loop.build import build
from ssd_jax.loop.workdir import changes, complete, defaults, jsonlike, load_config, save_config, split_name


def stored(workdir, values):
    """Write `values` as a config.json, and return the workdir."""
    (workdir / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return workdir


def fields(tree, path=()):
    """List the path of every field that is not a section."""
    for name, value in tree.items():
        yield from fields(value, (*path, name)) if isinstance(value, dict) else [(*path, name)]


def without(values, path):
    """Return `values` without the field at `path`."""
    first, *rest = path
    return {
        name: without(value, rest) if rest and name == first else value
        for name, value in values.items()
        if rest or name != first
    }


LEAST = {"data": {"source": "shapes", "train": "train:8", "eval": "test:4"}}


def test_a_stored_config_is_read_as_it_was(tmp_path):
    config = tiny.config("somewhere")
    save_config(config, tmp_path)
    assert load_config(tmp_path).to_dict() == jsonlike(config.to_dict())
    assert changes(config, tmp_path) == []


@pytest.mark.parametrize("path", list(fields(defaults())), ids=".".join)
def test_a_field_that_an_older_version_did_not_know_has_its_default(path, tmp_path):
    whole = ssd300_voc.get_config()
    lacking = load_config(stored(tmp_path, without(whole.to_dict(), path)))
    value, default = lacking, defaults()
    for name in path:
        value, default = value[name], default[name]
    assert value == default
    assert [change.split()[0] for change in changes(whole, tmp_path)] in ([], [".".join(path)])


def test_the_least_that_a_workdir_of_imported_weights_stores_is_enough(tmp_path):
    config = load_config(stored(tmp_path, LEAST))
    assert config.to_dict() == defaults() | {"data": defaults()["data"] | LEAST["data"]}


@pytest.mark.parametrize("name", config_names())
def test_our_configs_are_complete(name):
    config = read_config(name)
    assert complete(config).to_dict() == config.to_dict()


def test_names_from_before_the_first_release_are_read(tmp_path):
    values = tiny.config("somewhere").to_dict()
    values["model"]["trunk"] = values["model"].pop("backbone")
    values["eval"]["pictures"] = values["eval"].pop("images")
    config = load_config(stored(tmp_path, values))
    assert (config.model.backbone, config.eval.images) == ("short", 4)
    assert "trunk" not in config.model and "pictures" not in config.eval


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


def test_a_workdir_with_a_field_that_this_version_does_not_know_is_read(tmp_path):
    """Another version may have written it, or one that did not check the names."""
    values = jsonlike(tiny.config("somewhere").to_dict()) | {"eval_evry": 3}
    assert load_config(stored(tmp_path, values)).to_dict() == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ('{"steps": 6, "da', "the file must be JSON; got Unterminated string"),
        ("", "the file must be JSON; got Expecting value"),
        ("[" * 100_000, "the file must be JSON; got"),
        ("[]", "a config must be a JSON object; got list"),
        ({}, "data.source must be text; got None"),
        ({"data": 7}, "data must be a section; got 7"),
        ({"data": LEAST["data"] | {"threads": "4"}}, "data.threads must be an integer; got '4'"),
        ({"data": LEAST["data"] | {"strict": 1}}, "data.strict must be true or false; got 1"),
        ({"data": LEAST["data"] | {"cache_gb": True}}, "data.cache_gb must be a number; got True"),
        ({"data": LEAST["data"] | {"class_names": "cat"}}, "data.class_names must be a list of texts; got 'cat'"),
        ({"data": LEAST["data"] | {"class_names": [7]}}, r"data.class_names must be a list of texts; got [7]"),
        ({"data": {"source": "shapes", "train": "train:8"}}, "data.eval must be text; got None"),
        (LEAST | {"eval": None, "a.b": 1}, "ConfigDict does not accept dots in field names"),
    ],
)
def test_a_damaged_config_is_one_line_that_names_the_file(values, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        load_config(stored(tmp_path, values))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'config.json'}: ") and message in text and "\n" not in text


def test_json_has_null_for_what_is_not_a_number(tmp_path):
    write_json(tmp_path / "a.json", {"mAP": float("nan"), "AP": {"cat": float("-inf"), "dog": 0.5}, "n": (1, 2)})
    assert "NaN" not in (tmp_path / "a.json").read_text()
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"^[^ ]*/pipe\.json: must be a regular file; got a pipe$"):
        read_json(tmp_path / "pipe.json")
    assert read_json(tmp_path / "a.json") == {"mAP": None, "AP": {"cat": None, "dog": 0.5}, "n": [1, 2]}


def test_every_split_has_a_name_of_its_own_in_file_names():
    splits = ["test", "test[:5]", "test[5:]", "test[5:9]", "all[~:80%]", "all[~80%:]", "all[:80%]", "VOC2007:test"]
    names = [split_name(split) for split in splits]
    assert names[:3] == ["test", "test_5", "test_5-"]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[\w%.+~-]+", name) for name in names)
