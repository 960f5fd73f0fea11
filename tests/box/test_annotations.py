"""jaxtyping checks the shapes in the annotations at every call, while other tests run."""

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("jaxtyping")
pytest.importorskip("beartype")

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
HOOK = "--jaxtyping-packages=ssd_jax.box,ssd_jax.loss,beartype.beartype"

MISTAKE = """
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from ssd_jax.box import geometry


def test_a_wrong_annotation_is_noticed():
    with pytest.raises(TypeCheckError, match="ssd_jax.box.geometry.iou"):
        geometry.iou(np.zeros((2, 3, 4), np.float32), np.zeros((2, 4), np.float32))
"""


def hooked_pytest(*arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", HOOK, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def test_the_annotations_are_true():
    files = [HERE / f"test_{name}.py" for name in ("geometry", "codec", "matching", "nms", "priors")]
    choice = "by_hand or hand_computed or loop or take_numpy or chain or sum_to or papers"
    output = hooked_pytest("-k", choice, *map(str, files), str(ROOT / "tests" / "test_loss.py"))
    assert " passed" in output


def test_the_hook_finds_a_wrong_shape(tmp_path):
    path = tmp_path / "test_mistake.py"
    path.write_text(MISTAKE)
    hooked_pytest("-c", str(ROOT / "setup.cfg"), "--rootdir", str(tmp_path), str(path))
