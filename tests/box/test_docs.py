"""The examples of docs/boxes.md are right, and every public name has one."""

import doctest
import inspect
import pathlib
import re

import pytest

from ssd_jax import box, loss

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "boxes.md"


def test_the_examples_print_what_the_page_shows():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 50
    assert result.failed == 0


def test_every_public_name_has_an_example():
    code = "\n".join(re.findall(r"^(?:>>>|\.\.\.) (.*)$", PAGE.read_text(), flags=re.MULTILINE))
    used = set(re.findall(r"\b(?:box|loss)\.(\w+)", code))
    assert set(box.__all__) - used == set()
    promised = {"smooth_l1", "hard_negatives", "multibox_loss"}
    assert promised <= used


@pytest.mark.parametrize("module", [box, loss])
def test_every_public_function_is_documented_and_typed(module):
    public = [thing for name, thing in vars(module).items() if not name.startswith("_")]
    functions = [thing for thing in public if inspect.isfunction(inspect.unwrap(thing))]
    assert len(functions) >= 3
    for function in functions:
        assert inspect.getdoc(function), function
        signature = inspect.signature(function)
        annotations = [signature.return_annotation, *(p.annotation for p in signature.parameters.values())]
        assert inspect.Signature.empty not in annotations, function
