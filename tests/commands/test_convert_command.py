"""The command `ssd-jax convert`: its flags. `tests/data/test_write_dataset.py` tests what it writes."""

import json

import pytest
import tiny

from ssd_jax.cli import main
from ssd_jax.data import describe_folder


def test_images_behind_a_link_are_read_if_they_are_allowed(tmp_path, capsys):
    voc, coco = tiny.write_voc(tmp_path / "voc", tiny.Images(2), {}), tmp_path / "coco"
    coco.mkdir()
    (coco / "images").symlink_to(voc / "JPEGImages")
    images = [{"id": i, "file_name": f"images/image-{i}.png", "width": 64, "height": 64} for i in range(2)]
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 16, 16]}]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "box"}]}
    (coco / "boxes.json").write_text(json.dumps(content))
    line = ["convert", str(coco), str(tmp_path / "out"), "--to=voc"]
    with pytest.raises(SystemExit, match="unless allow_outside; got 2 outside"):
        main(line)
    main([*line, "--allow_outside"])
    found = describe_folder(tmp_path / "out")
    assert (found.images, found.boxes, found.class_names) == (2, 1, ("box",))
    files = (tmp_path / "out").rglob("image-*.png")
    assert len([file for file in files if file.is_file() and not file.is_symlink()]) == 2
