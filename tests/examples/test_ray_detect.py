"""What a worker of `examples/ray_detect.py` does with a batch; Ray itself is not started."""

import importlib.util
from pathlib import Path

import cv2
import pytest
from bright import Bright, square

pytest.importorskip("ray.data", reason="ray is not installed: pip install 'ray[data]' pyarrow")
arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra [parquet]")

PATH = Path(__file__).resolve().parents[2] / "examples" / "ray_detect.py"


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_a_batch_gets_its_detections_and_keeps_its_other_columns(kind):
    spec = importlib.util.spec_from_file_location("ray_detect", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = [cv2.imencode(".png", square(number)[0])[1].tobytes() for number in range(10)]
    files[3] = b"no image"
    files[4] = None
    images = files if kind == "bytes" else [{"bytes": file, "path": "a"} for file in files]
    table = module.Detect(Bright(), 0.5)(arrow.table({"image": images, "id": range(10)}))
    assert table.column_names == ["id", "detections", "error"]
    for number, row in enumerate(table.to_pylist()):
        assert row["id"] == number
        if number in (3, 4):
            assert row["detections"] is None
            assert row["error"].startswith("the file must be JPEG" if number == 3 else "the file is empty")
        else:
            assert row["error"] is None
            assert [each["box"] for each in row["detections"]] == [square(number)[1]]
    strict = module.Detect(Bright(), 0.95)(arrow.table({"image": images, "id": range(10)}))
    assert strict["detections"].to_pylist()[0] == []
