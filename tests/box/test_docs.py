"""The examples of docs/boxes.md are run, and none of the public names is without one."""

import doctest
import inspect
import pathlib
import re

from ssd_jax import box

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "boxes.md"


def test_the_examples_say_what_they_print():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 50
    assert result.failed == 0


def test_every_public_name_has_an_example():
    code = "\n".join(re.findall(r"^(?:>>>|\.\.\.) (.*)$", PAGE.read_text(), flags=re.MULTILINE))
    used = set(re.findall(r"\b(?:box|loss)\.(\w+)", code))
    assert set(box.__all__) - used == set()
    promised = {"smooth_l1", "hard_negatives", "multibox_loss"}
    assert promised <= used


def test_every_public_function_says_shapes_and_is_documented():
    for name in box.__all__:
        thing = getattr(box, name)
        if callable(thing):
            assert inspect.getdoc(thing), name
