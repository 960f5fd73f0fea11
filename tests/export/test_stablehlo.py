"""A detector as a StableHLO program."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

import ssd_jax
from ssd_jax.export import load_stablehlo, to_onnx, to_stablehlo
from ssd_jax.inference import Detector, load_detector
from ssd_jax.inference.selection import make_detect

PROMOTION = "standard"  # Flax's BatchNorm promotes
DOCS = Path(__file__).parents[2] / "docs" / "deploy.md"


@pytest.fixture(scope="module")
def path(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "detector.stablehlo"
    to_stablehlo(detector, path)
    return path


def images(count):
    return np.random.default_rng(1).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_the_program_gives_the_same_bits_as_the_detector_for_any_batch(detector, path):
    program, detect = load_stablehlo(path), jax.jit(make_detect(detector.model, **detector.options))
    for count in (1, 2, 3):
        wanted = detect(detector.variables, images(count))
        assert 0 < np.count_nonzero(wanted[2]) < wanted[2].size
        for a, b in zip(program(images(count)), wanted, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["dssd", "retina"])
def test_other_networks_give_the_same_bits(name, request, tmp_path):
    detector = request.getfixturevalue(name)
    to_stablehlo(detector, tmp_path / "x.stablehlo", batch_size=2)
    given = np.random.default_rng(1).integers(0, 256, (2, *detector.model.spec.input_sides, 3), dtype=np.uint8)
    wanted = detector._detect(detector.variables, given)
    assert 0 < np.count_nonzero(wanted[2]) < wanted[2].size
    for a, b in zip(load_stablehlo(tmp_path / "x.stablehlo")(given), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fixed_batch_is_padded(detector, path, tmp_path):
    to_stablehlo(detector, tmp_path / "four.stablehlo", batch_size=3)
    fixed = load_detector(tmp_path / "four.stablehlo")
    assert fixed.batch_size == 3
    given = list(np.random.default_rng(2).integers(0, 256, (5, 30, 50, 3), dtype=np.uint8))
    for found, wanted in zip(fixed(given), load_detector(path)(given), strict=True):
        assert len(found.labels)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_loaded_file_is_a_detector(detector, path):
    loaded = pickle.loads(pickle.dumps(load_detector(path, batch_size=2)))
    assert loaded.batch_size == 2
    assert (loaded.class_names, loaded.image_size, loaded.step) == (("bright", "dark"), 64, 7)
    given = [*np.random.default_rng(3).integers(0, 256, (3, 90, 40, 3), dtype=np.uint8)]
    for found, wanted in zip(loaded(given), detector(given), strict=True):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
    with pytest.raises(ValueError, match="detector must be that of a checkpoint; got one of an exported file"):
        to_stablehlo(loaded, path.with_name("again.stablehlo"))


def test_the_metadata_say_what_a_user_needs(path):
    metadata = json.loads(path.with_name("detector.stablehlo.json").read_text())
    assert len(metadata.pop("sha256")) == 64
    assert metadata == {
        "class_names": ["bright", "dark"],
        "image_size": 64,
        "batch_size": None,
        "step": 7,
        "options": {"score_threshold": 0.5},
        "thresholds": None,
        "ssd_jax": ssd_jax.__version__,
        "jax": jax.__version__,
        "platforms": ["cpu", "cuda", "tpu"],
    }


BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ssd_jax", "flax", "orbax", "optax"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
"""


def test_the_lines_of_the_docs_run_it_without_flax_and_this_package(detector, path):
    (lines,) = re.findall(r"```python\n(import json\nfrom pathlib.*?)```", DOCS.read_text(), re.DOTALL)
    image = np.random.default_rng(4).integers(0, 256, (64, 70, 3), dtype=np.uint8)
    cv2.imwrite(str(path.with_name("photo.png")), image[:, :, ::-1])
    lines = lines.replace("photo.jpg", "photo.png").replace("score > 0.4", "score > 0.51")
    environment = os.environ | {"PYTHONPATH": ""}
    command = [sys.executable, "-c", BLOCK + lines]
    result = subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (found,) = detector([image])
    found = found.above(0.5100001)
    assert len(found.labels)
    printed = [line.split() for line in result.stdout.splitlines()]
    assert [name for name, *_ in printed] == [("bright", "dark")[label - 1] for label in found.labels]
    numbers = np.array([[float(v) for v in rest] for _, *rest in printed], np.float32)
    np.testing.assert_allclose(numbers[:, 0], found.scores, rtol=1e-5)
    np.testing.assert_allclose(numbers[:, 1:] * [70, 64, 70, 64], found.boxes, rtol=1e-5, atol=1e-5)


def test_the_block_blocks(tmp_path):
    command = [sys.executable, "-c", BLOCK + "import flax"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode != 0 and "flax is blocked" in result.stderr


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_a_wrong_batch_size_is_refused(detector, tmp_path, size):
    with pytest.raises(ValueError, match=f"^batch_size must be a positive integer or None; got {size}$"):
        to_stablehlo(detector, tmp_path / "x.stablehlo", batch_size=size)
    assert not list(tmp_path.iterdir())


def test_options_of_an_exported_file_are_chosen_at_its_export(path):
    message = r"detector\.stablehlo: step and options must be chosen at the export; got "
    with pytest.raises(ValueError, match=message + "step, iou_threshold$"):
        load_detector(path, step=3, iou_threshold=0.3)


@pytest.mark.parametrize("suffix", ["stablehlo", "onnx"])
def test_tiles_are_merged_by_the_options_of_the_export(detector, tmp_path, suffix):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra [onnx]")
    options = {"score_threshold": 0.45, "iou_threshold": 0.2}
    strict = Detector(detector.model, detector.variables, detector.class_names, **options)
    image = np.random.default_rng(5).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    (wanted,) = strict([image], tile=64)
    path = tmp_path / f"x.{suffix}"
    {"stablehlo": to_stablehlo, "onnx": to_onnx}[suffix](strict, path)
    loaded = load_detector(path)
    assert loaded.options == options
    (found,) = loaded([image], tile=64)
    assert len(found.labels) == len(wanted.labels)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    loaded.options = {}
    (looser,) = loaded([image], tile=64)
    assert len(looser.labels) > len(wanted.labels)


def test_a_file_without_options_and_thresholds_is_loaded(path, tmp_path):
    """Earlier versions wrote no thresholds."""
    for end in ("", ".json"):
        (tmp_path / f"x.stablehlo{end}").write_bytes(path.with_name(path.name + end).read_bytes())
    metadata = json.loads((tmp_path / "x.stablehlo.json").read_text())
    del metadata["options"], metadata["thresholds"]
    (tmp_path / "x.stablehlo.json").write_text(json.dumps(metadata))
    loaded = load_detector(tmp_path / "x.stablehlo")
    assert (loaded.options, loaded.thresholds) == ({}, None)


def test_a_damaged_or_missing_file_is_one_line(path, tmp_path):
    copy, beside = tmp_path / "copy.stablehlo", tmp_path / "copy.stablehlo.json"
    with pytest.raises(FileNotFoundError, match=r"copy\.stablehlo\.json"):
        load_detector(copy)
    beside.write_bytes(path.with_name("detector.stablehlo.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"copy\.stablehlo"):
        load_detector(copy)
    copy.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"copy\.stablehlo: the file must have the sha256 .*; got [0-9a-f]{64}$"):
        load_detector(copy)
    for text, message in (
        ("[]", "class_names must be a list of texts; got None"),
        ('{"class_names": ["a"], "image_size": 0}', "image_size must be a positive integer or two; got 0"),
        (
            '{"class_names": ["a"], "image_size": 9, "batch_size": "x"}',
            "batch_size must be a positive integer or null",
        ),
        ('{"class_names": ["a"], "image_size": 9, "options": []}', r"options must be a JSON object; got \[\]"),
        (
            '{"class_names": ["a"], "image_size": 9, "options": {"iou_threshold": 2}}',
            r"options: iou_threshold must be a number in \[0, 1\]; got 2",
        ),
        *(
            (
                f'{{"class_names": ["a"], "image_size": 9, "thresholds": {text}}}',
                "thresholds must be numbers from 0 to 1 by class; got",
            )
            for text in ("[0.5]", '{"a": 2}', '{"a": "b"}', '{"a": true}', "0.5")
        ),
        ("{", "the file must be JSON"),
    ):
        beside.write_text(text)
        with pytest.raises(ValueError, match=rf"copy\.stablehlo\.json: .*{message}"):
            load_detector(copy)
