"""What a workdir's config.json may look like."""

import json
import os
import re

import pytest
import tiny

from configs import ssd300_voc
from ssd_jax.files import read_json, write_json
from ssd_jax.loop.fields import defaults
from ssd_jax.loop.workdir import changes, jsonlike, load_config, save_config, split_name


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


def test_names_from_before_the_first_release_are_read(tmp_path):
    values = tiny.config("somewhere").to_dict()
    values["model"]["trunk"] = values["model"].pop("backbone")
    values["eval"]["pictures"] = values["eval"].pop("images")
    config = load_config(stored(tmp_path, values))
    assert (config.model.backbone, config.eval.images) == ("short", 4)
    assert "trunk" not in config.model and "pictures" not in config.eval


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
