"""Every layout that `auto` reads: the same images come back, and a training step takes them."""

import json
import logging
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import test_voc
import tiny
from layouts import (
    LAYOUTS,
    coco_own,
    coco_single,
    csv_tensorflow,
    cvat,
    label_studio,
    labelme,
    voc_beside,
    voc_folders,
    voc_own,
    write_image,
    write_text,
    yolo_images,
    yolo_lines,
    yolo_list_of_names,
)

from ssd_jax.data import Examples, Subset, auto, describe_folder, open_source
from ssd_jax.data.reading import plural
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax mixes integers and floats in its schedules


def drawn(n):
    """Return n images, as a source that ends."""
    images = tiny.Images(n)
    return Examples([images[i] for i in range(n)], images.class_names)


IMAGES = drawn(9)
BOXES = sum(i % 4 for i in range(9))
one_line = test_voc.one_line


@pytest.fixture(scope="module")
def train_one_step():
    """Train a step on a source, compiled once for all tests."""
    optimizer = tiny.sgd()
    step = jax.jit(tiny.train_step(optimizer, model=tiny.SHORT))
    state = create_state(jax.random.key(0), tiny.SHORT, optimizer)
    return lambda source: jax.device_get(step(state, tiny.first_batch(source, 4), jax.random.key(1))[1])


def same_images(source, expected):
    """Check that a source has the images of another one, in whatever order, with their boxes to half a pixel."""
    by_pixels = {example.image.tobytes(): example for example in expected}
    assert len(source) == len(expected) == len(by_pixels)
    for example in source:
        image = example.decode()
        wanted = by_pixels.pop(image.tobytes())
        sides = np.tile(image.shape[1::-1], 2)
        rows = []
        for e, names in ((example, source.class_names), (wanted, expected.class_names)):
            named = zip((names[label - 1] for label in e.labels), (e.boxes * sides).tolist(), strict=True)
            rows.append(sorted((name, *box) for name, box in named))
        assert [row[0] for row in rows[0]] == [row[0] for row in rows[1]]
        np.testing.assert_allclose(
            np.array([row[1:] for row in rows[0]]), np.array([row[1:] for row in rows[1]]), atol=0.5
        )
    assert not by_pixels


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_and_trained_on(name, tmp_path, train_one_step, caplog):
    write, kind, splits = LAYOUTS[name]
    write(tmp_path, IMAGES)
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        found = describe_folder(tmp_path)
        source = open_source("auto", "all", root=tmp_path)
    assert not caplog.records
    assert found.class_names == source.class_names == IMAGES.class_names
    assert (found.images, found.boxes, set(found.splits)) == (9, BOXES, splits)
    assert f"{plural(9, 'image')}, {plural(BOXES, 'box')} of 2 classes (bright, dark)" in found.text
    assert "\n" not in found.text and found.text.startswith(f"{tmp_path}: ")
    same_images(source, IMAGES)

    train, evaluation = (open_source("auto", split, root=tmp_path) for split in (found.train, found.eval))
    assert len({e.image_id for e in train}) + len({e.image_id for e in evaluation}) <= 9 or "polygons" in name
    if kind != "auto":
        same_images(open_source(kind, "all", root=tmp_path), IMAGES)
    metrics = train_one_step(train)
    assert np.isfinite(metrics["loss"]) and metrics["positives"] > 0


def test_splits_that_the_data_names(tmp_path):
    voc_own(tmp_path, IMAGES)
    same_images(
        open_source("auto", "train", root=tmp_path),
        Subset(IMAGES, slice(0, 9, 2)),
    )
    joined = open_source("auto", "val+train[:1]", root=tmp_path)
    assert [Path(e.image_id).stem for e in joined] == ["0001", "0003", "0005", "0007", "0000"]
    assert open_source("auto", "all", root=tmp_path).inclusive
    with pytest.raises(ValueError) as error:
        open_source("auto", "test", root=tmp_path)
    one_line(
        error, f"{tmp_path}: a split must be one of all, train, val, or a part of one, as all[~:80%]; got 'test'"
    )


# Layout, a split, what empties it, and the sizes of the splits then.
EMPTY = {
    "VOC": ("val", {"ImageSets/Main/val.txt": "\n"}, {"train": 5, "val": 0}),
    "VOC flags": ("cat_val", {"ImageSets/Main/cat_val.txt": "0001 -1\n"}, {"train": 5, "val": 4, "cat_val": 0}),
    "COCO": (
        "val",
        {"annotations/instances_val2017.json": '{"images":[],"annotations":[],"categories":[]}'},
        {"train": 5, "train2017": 5, "val": 0, "val2017": 0},
    ),
    "CSV": ("test", {"data/test_labels.csv": "filename,class,xmin,ymin,xmax,ymax\n"}, {"train": 5, "test": 0}),
    "YOLO text": ("val", {"val.txt": ""}, {"train": 5, "val": 0}),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_split_without_images(tmp_path, name):
    split, files, splits = EMPTY[name]
    LAYOUTS[name.removesuffix(" flags")][0](tmp_path, IMAGES)
    for file, text in files.items():
        write_text(tmp_path / file, text)
    found = describe_folder(tmp_path)
    assert found.splits == splits and f"{split} 0" in found.text and f"; no images in {split}" in found.text
    assert len(open_source("auto", "train", root=tmp_path)) == 5
    assert "val" in splits or (found.train, found.eval) == ("train[~:80%]", "train[~80%:]")
    with pytest.raises(ValueError) as error:
        open_source("auto", split, root=tmp_path)
    one_line(error, f"{tmp_path}: the split {split!r} must have images; got none")


def test_all_splits_are_without_images(tmp_path):
    voc_own(tmp_path / "voc", drawn(30))
    for split in ("train", "val"):
        write_text(tmp_path / "voc" / "ImageSets" / "Main" / f"{split}.txt", "")
    assert len(open_source("auto", "train", root=tmp_path / "voc")) == 24
    write_text(tmp_path / "coco" / "labels.json", '{"images":[],"annotations":[],"categories":[]}')
    with pytest.raises(ValueError) as error:
        describe_folder(tmp_path / "coco")
    one_line(error, f"{tmp_path / 'coco' / 'labels.json'}: images must be one or more; got none")


def test_a_folder_that_changes_is_read_again(tmp_path):
    voc_beside(tmp_path, IMAGES)
    for path in tmp_path.iterdir():
        os.utime(path, (1e9, 1e9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto, "SETTLED", -1e9)  # as if the files were old
        first = auto.read_folder(tmp_path)
        assert auto.read_folder(tmp_path) is first and auto.read_folder(tmp_path, "voc") is not first
        first = auto.read_folder(tmp_path)
        (tmp_path / "3.xml").write_text((tmp_path / "2.xml").read_text())
        assert auto.read_folder(tmp_path).boxes[3] == 2
        (tmp_path / "3.xml").unlink()
        assert len(auto.read_folder(tmp_path).images) == 8
        (tmp_path / "2.png").unlink()
        assert len(auto.read_folder(tmp_path).images) == 7


def test_splits_where_the_data_names_none(tmp_path):
    voc_beside(tmp_path, drawn(30))
    names = {
        split: {e.image_id for e in open_source("auto", split, root=tmp_path)} for split in ("train", "val", "test")
    }
    assert {split: len(found) for split, found in names.items()} == {"train": 24, "val": 3, "test": 3}
    assert len(set.union(*names.values())) == 30
    found = describe_folder(tmp_path)
    assert (found.train, found.eval) == ("all[~:80%]", "all[~80%:]")
    assert {e.image_id for e in open_source("auto", found.train, root=tmp_path)} == names["train"]


def test_two_formats_that_say_the_same(tmp_path):
    voc_folders("xml")(tmp_path, IMAGES)
    yolo = tmp_path / "labels"
    for i, example in enumerate(IMAGES):
        write_text(yolo / f"{i}.txt", yolo_lines(example))
    write_text(yolo / "classes.txt", "bright\ndark\n")
    found = describe_folder(tmp_path)
    assert "VOC XML in xml/*.xml: 9 images" in found.text and found.text.endswith(
        "YOLO labels in labels/*.txt says the same"
    )


def test_two_formats_that_differ_are_an_error_that_names_both(tmp_path):
    voc_folders("xml")(tmp_path, IMAGES)
    write_text(tmp_path / "labels" / "classes.txt", "bright\ndark\n")
    write_text(tmp_path / "labels" / "1.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError) as error:
        open_source("auto", "all", root=tmp_path)
    rule = f"{tmp_path}: a folder must have one meaning; got two: VOC XML in xml/*.xml: 9 images"
    one_line(
        error, rule, "or YOLO labels in labels/*.txt", "images/1.png differ", "data.source=voc or data.source=yolo"
    )
    same_images(open_source("voc", "all", root=tmp_path), IMAGES)
    assert len(open_source("yolo", "all", root=tmp_path)) == 9


def test_a_folder_without_annotations(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        open_source("auto", "all", root=tmp_path / "nowhere")
    one_line(error, f"{tmp_path / 'nowhere'}: no such folder")
    write_text(tmp_path / "notes.md", "")
    with pytest.raises(ValueError) as error:
        describe_folder(tmp_path)
    one_line(error, f"{tmp_path}: the folder must hold images and annotations; got 1 files, none of them an image")
    write_image(tmp_path / "a.png", IMAGES[1].image)
    with pytest.raises(ValueError) as error:
        describe_folder(tmp_path)
    one_line(
        error, "the annotations must be of a format that is known (voc, coco, cvat", "got 1 images and files .md"
    )


def test_hidden_files_and_other_programs_files_are_left_alone(tmp_path):
    voc_beside(tmp_path, IMAGES)
    write_text(tmp_path / ".idea" / "x.xml", "<project/>")
    write_text(tmp_path / "__MACOSX" / "0.xml", "damaged")
    write_text(tmp_path / "._0.xml", "damaged")
    write_text(tmp_path / "pom.xml", "<project><modelVersion/></project>")
    write_text(tmp_path / "package.json", '{"name": "x"}')
    write_text(tmp_path / "ci.yaml", "train: [\n")
    write_text(tmp_path / "requirements.txt", "jax\n")
    same_images(open_source("auto", "all", root=tmp_path), IMAGES)


# -- VOC in any arrangement


def test_an_annotation_without_an_image_is_left_out_and_named(tmp_path, caplog):
    voc_folders("annots")(tmp_path, IMAGES)
    (tmp_path / "images" / "1.png").unlink()
    write_image(tmp_path / "images" / "new.png", IMAGES[1].image)
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        found = describe_folder(tmp_path)
        assert len(open_source("auto", "all", root=tmp_path)) == 8
    assert "1 image without annotation left out" in found.text
    text = "have none: annots/1.xml"
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}, annots/*.xml: annotations without an image were left out: 1 of 9 {text}"
    ]
    with pytest.raises(FileNotFoundError) as error:
        open_source("auto", "all", root=tmp_path, strict=True)
    one_line(error, f"{tmp_path}, annots/*.xml: every annotation must have an image; 1 of 9 {text}")


def test_two_annotations_of_one_image(tmp_path):
    """Folders whose stems repeat, and one of the images is lost: the other folder's image is not its."""
    voc_folders("a/xml", "a/images")(tmp_path, IMAGES)
    voc_folders("b/xml", "b/images")(tmp_path, IMAGES)
    (tmp_path / "b" / "images" / "3.png").unlink()
    with pytest.raises(ValueError) as error:
        open_source("auto", "all", root=tmp_path)
    one_line(
        error, f"{tmp_path}/b/xml/3.xml: an image must have one annotation; got a/images/3.png, which a/xml/3.xml"
    )


# Layout, one of its annotation files, and the rule that it breaks when it is cut short, or empty.
DAMAGED = {
    "VOC side by side": ("3.xml", "the file must be well-formed XML; got"),
    "VOC nested": ("annotations/test/0.xml", "the file must be well-formed XML; got"),
    "COCO": ("annotations/instances_val2017.json", "must be well-formed JSON; got"),
    "COCO Roboflow": ("valid/_annotations.coco.json", "must be well-formed JSON; got"),
    "LabelMe": ("3.json", "must be well-formed JSON; got"),
    "LabelMe embedded": ("3.json", "must be well-formed JSON; got"),
}


@pytest.mark.parametrize("size", [0, 1, 60])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_annotation_beside_good_ones(tmp_path, name, size):
    write, kind, _ = LAYOUTS[name]
    file, rule = DAMAGED[name]
    write(tmp_path, IMAGES)
    write_text(tmp_path / file, (tmp_path / file).read_text()[:size])
    for source in ("auto", kind):
        with pytest.raises(ValueError) as error:
            open_source(source, "all", root=tmp_path)
        one_line(error, f"{tmp_path / file}: {rule}")


def test_a_damaged_file_beside_one_file_of_all_images(tmp_path):
    cvat(tmp_path / "a", IMAGES)
    write_text(tmp_path / "b" / "annotations.xml", "")
    with pytest.raises(ValueError) as error:
        open_source("auto", "all", root=tmp_path)
    one_line(error, f"{tmp_path}/b/annotations.xml: the file must be well-formed XML; got")

    label_studio(tmp_path, IMAGES)
    write_text(tmp_path / "project-2.json", "[")
    with pytest.raises(ValueError) as error:
        open_source("label_studio", "all", root=tmp_path)
    one_line(error, f"{tmp_path}/project-2.json: must be well-formed JSON; got")

    csv_tensorflow(tmp_path, IMAGES)
    write_text(tmp_path / "data" / "test_labels.csv", "")
    with pytest.raises(ValueError) as error:
        open_source("csv", "all", root=tmp_path)
    rule = "a CSV file must begin with the names of its columns; got an empty file"
    one_line(error, f"{tmp_path}/data/test_labels.csv: {rule}")


def test_all_labelme_files_are_damaged(tmp_path):
    labelme(tmp_path, IMAGES)
    for path in tmp_path.glob("*.json"):
        write_text(path, "")
    with pytest.raises(ValueError) as error:
        open_source("auto", "all", root=tmp_path)
    one_line(error, f"{tmp_path / '0.json'}: must be well-formed JSON; got")


def test_damaged_files_of_other_programs_are_left_alone(tmp_path):
    coco_own(tmp_path, IMAGES)
    for name in ("annotations/captions_val2017.json", "logs/run.json", "logs/run.xml", "logs/run.csv"):
        write_text(tmp_path / name, "{")
    same_images(open_source("auto", "all", root=tmp_path), IMAGES)


# -- COCO


def test_coco_keeps_its_ground_truth(tmp_path):
    coco_own(tmp_path, IMAGES)
    truth = open_source("auto", "val2017[:2]", root=tmp_path).truth()
    assert [image["file_name"] for image in truth["images"]] == ["000000000000.png", "000000000001.png"]
    everything = open_source("auto", "all", root=tmp_path).truth()
    assert len(everything["images"]) == 9 and len(everything["annotations"]) == BOXES


def test_results_are_no_annotations(tmp_path):
    coco_own(tmp_path, IMAGES)
    rows = json.loads((tmp_path / "annotations" / "instances_val2017.json").read_text())["annotations"]
    write_text(tmp_path / "results" / "dets.json", json.dumps([row | {"score": 0.5} for row in rows]))
    assert "COCO JSON in annotations/*.json: 9 images" in describe_folder(tmp_path).text


@pytest.mark.parametrize("strict", [False, True])
def test_results_with_their_images_are_left_out_and_named(tmp_path, strict):
    coco_single(tmp_path, IMAGES)
    data = json.loads((tmp_path / "labels.json").read_text())
    rows = [row | {"score": 0.5, "bbox": [1, 1, 9, 9]} for row in data["annotations"]]
    write_text(tmp_path / "dets" / "dets.json", json.dumps(data | {"annotations": rows}))
    found = describe_folder(tmp_path, strict=strict)
    assert "COCO JSON in labels.json: 9 images" in found.text
    assert found.text.endswith("; dets/dets.json left out, whose boxes have scores")
    same_images(open_source("auto", "all", root=tmp_path, strict=strict), IMAGES)


def test_scores_in_one_of_two_splits(tmp_path):
    coco_own(tmp_path, IMAGES)
    path = tmp_path / "annotations" / "instances_train2017.json"
    write_text(path, path.read_text().replace('"area"', '"score": 0.5, "area"'))
    assert describe_folder(tmp_path).splits == {"train": 5, "train2017": 5, "val": 4, "val2017": 4}


@pytest.mark.parametrize("kind", ["auto", "coco"])
def test_a_class_and_a_field_called_score_are_no_results(tmp_path, kind):
    coco_single(tmp_path, IMAGES)
    text = (tmp_path / "labels.json").read_text()
    write_text(tmp_path / "labels.json", text.replace('"dark"', '"score"').replace('"area"', '"score": 0.9, "area"'))
    found = describe_folder(tmp_path, kind)
    assert (found.images, found.boxes, found.class_names) == (9, BOXES, ("bright", "score"))


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":"), (" ,\n", " :\n ")])
def test_a_split_of_background_alone(tmp_path, separators):
    coco_own(tmp_path, IMAGES)
    path = tmp_path / "annotations" / "instances_val2017.json"
    write_text(path, json.dumps(json.loads(path.read_text()) | {"annotations": []}, separators=separators))
    assert describe_folder(tmp_path).splits == {"train": 5, "train2017": 5, "val": 4, "val2017": 4}


# -- YOLO


def yolo_error(root, **changes):
    for name, text in changes.items():
        write_text(root / {"config": "data.yaml", "labels": "labels/train/2.txt"}[name], text)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        open_source("auto", "all", root=root)
    return error


CONFIG = "train: images/train\nval: images/val\nnames: [bright, dark]\n"


@pytest.fixture
def yolo(tmp_path):
    yolo_list_of_names(tmp_path, IMAGES)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("2 .5 .5 .1 .1", "a line must begin with a number of a class, 0 to 1; got '2'"),
        ("-1 .5 .5 .1 .1", "a line must begin with a number of a class, 0 to 1; got '-1'"),
        ("cat .5 .5 .1 .1", "a line must begin with a number of a class, 0 to 1; got 'cat'"),
        ("0 .5 .5 .1", "must be followed by 4 numbers, a box, or by 6, 8 or more, a polygon; got 3"),
        ("0 .5 .5 .1 .1 .9", "must be followed by 4 numbers, a box, or by 6, 8 or more, a polygon; got 5"),
        ("0 .5 .5 .1 nan", "coordinates must be fractions of the image's sides, from 0 to 1; got 'nan'"),
        ("0 32 32 10 10", "coordinates must be fractions of the image's sides, from 0 to 1; got '32'"),
        ("0 .5 .5 .1 x", "a line must be numbers; got '.5 .5 .1 x'"),
    ],
)
def test_lines_that_break_a_rule(yolo, line, rule):
    error = yolo_error(yolo, labels=f"0 .5 .5 .1 .1\n\n{line}\n")
    one_line(error, f"{yolo / 'labels/train/2.txt'}: line 3: ", rule)


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (CONFIG + "nc: 3\n", "nc must be the number of names, 2; got 3"),
        (CONFIG.replace("[bright, dark]", "[bright, bright]"), "names must be one or more different class names"),
        (CONFIG.replace("[bright, dark]", "{a: bright}"), "the keys of names must be whole numbers from 0; got 'a'"),
        (CONFIG.replace("[bright, dark]", "[[1]]"), "each of names must be one line of text; got [1]"),
        (CONFIG.replace("[bright, dark]", "bright"), "names must be one or more different class names; got 'bright'"),
        (CONFIG.replace("images/val", "nowhere"), "val must be a folder of images, or a list of images, below"),
        (CONFIG.replace("images/val", "3"), "val must be a path, or a list of paths; got 3"),
        (CONFIG + "path: [1]\n", "path must be text; got [1]"),
        (CONFIG + "train:\n- [\n", "must be well-formed YAML; got: "),
        (
            CONFIG + "x: !!python/object/apply:os.system ['true']\n",
            "must be well-formed YAML; got: could not determine",
        ),
    ],
)
def test_a_config_that_breaks_a_rule(yolo, config, rule):
    one_line(yolo_error(yolo, config=config), f"{yolo / 'data.yaml'}: ", rule)


def test_paths_never_lead_out_of_the_folder(yolo):
    outside = yolo.parent / "outside"
    write_image(outside / "x.png", IMAGES[1].image)
    one_line(
        yolo_error(yolo, config=CONFIG.replace("images/val", "../outside")), "val must be a folder of images", "below"
    )
    write_text(yolo / "val.txt", f"{outside}/x.png\n./images/val/1.png\n")
    write_text(yolo / "data.yaml", CONFIG.replace("images/val", "val.txt"))
    assert [e.image_id for e in open_source("auto", "val", root=yolo)] == ["images/val/1.png"]


def test_a_box_reaching_outside_is_clipped(yolo, caplog):
    write_text(yolo / "labels/train/2.txt", "0 0.1 0.5 0.4 0.2\n")
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        source = open_source("auto", "train", root=yolo)
    assert [r.getMessage() for r in caplog.records] == [
        f"{yolo}, data.yaml: boxes that reach outside their image were clipped: 1, in images/train/2.png"
    ]
    (example,) = [e for e in source if e.image_id == "images/train/2.png"]
    np.testing.assert_allclose(example.boxes, [[0, 0.4, 0.3, 0.6]], rtol=1e-6)


def test_labels_without_names_have_numbers_that_class_names_can_name(tmp_path):
    yolo_images(tmp_path, IMAGES)
    found = describe_folder(tmp_path)
    assert found.class_names == ("0", "1") and "2 classes, which are numbers" in found.text
    same_images(open_source("auto", "all", root=tmp_path, class_names=["bright", "dark"]), IMAGES)
    with pytest.raises(ValueError) as error:
        open_source("auto", "all", root=tmp_path, class_names=["bright"])
    one_line(error, f"{tmp_path}: the data numbers its classes from 0 to 1, so class_names must be 2 or more; got 1")


def test_keypoints_follow_the_box(yolo):
    write_text(yolo / "data.yaml", CONFIG + "kpt_shape: [2, 3]\n")
    write_text(yolo / "labels/train/2.txt", "1 0.5 0.5 0.2 0.4 3 4 2 5 6 2\n")
    (example,) = [e for e in open_source("auto", "train", root=yolo) if e.image_id == "images/train/2.png"]
    np.testing.assert_allclose(example.boxes, [[0.4, 0.3, 0.6, 0.7]], rtol=1e-6)


@pytest.mark.parametrize("with_config", [True, False])
def test_labels_without_an_image_are_left_out_and_named(yolo, with_config, caplog):
    """As where some of the images have a format that is not read."""
    label = (yolo / "labels" / "train" / "2.txt").read_text()
    for name in ("one", "two"):
        write_text(yolo / "labels" / "train" / f"{name}.txt", label)
        write_text(yolo / "images" / "train" / f"{name}.heic", "")
    write_text(yolo / "labels" / "train" / "readme.txt", "These are labels.")
    write_text(yolo / "labels" / "train" / "empty.txt", "")
    if not with_config:
        (yolo / "data.yaml").unlink()
        write_text(yolo / "labels" / "lost" / "three.txt", label)  # none of its images is there
    names = ["labels/lost/three.txt"] * (not with_config) + ["labels/train/one.txt", "labels/train/two.txt"]
    found = f"{len(names)} of {len(names) + 9} have none: {', '.join(sorted(names))}"
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        assert len(open_source("auto", "all", root=yolo)) == 9
    assert f"{plural(len(names), 'annotation')} without an image left out" in describe_folder(yolo).text
    (message,) = [r.getMessage() for r in caplog.records]
    assert message.endswith(f": annotations without an image were left out: {found}")
    with pytest.raises(FileNotFoundError) as error:
        open_source("auto", "all", root=yolo, strict=True)
    one_line(error, f"every annotation must have an image; {found}")


def test_a_config_that_lists_some_of_the_images(yolo):
    write_text(yolo / "val.txt", "./images/val/1.png\n./images/val/lost.png\n")
    write_text(yolo / "labels" / "val" / "lost.txt", "0 .5 .5 .1 .1\n")
    write_text(yolo / "data.yaml", CONFIG.replace("images/val", "val.txt"))
    found = describe_folder(yolo)
    assert found.splits == {"train": 5, "val": 1} and "; 1 annotation without an image left out" in found.text


@pytest.mark.parametrize("images", ["img", "imgs", "image", "JPEGImages"])
def test_a_config_beside_images_in_a_folder_of_another_name(tmp_path, images):
    for i, example in enumerate(IMAGES):
        split = "valid" if i % 2 else "train"
        write_image(tmp_path / split / images / f"{i}.png", example.image)
        write_text(tmp_path / split / "labels" / f"{i}.txt", yolo_lines(example))
        write_text(tmp_path / split / "txt" / f"{i}.txt", "a caption\n")
    write_text(tmp_path / "data.yaml", f"train: train/{images}\nval: valid/{images}\nnames: [bright, dark]\n")
    found = describe_folder(tmp_path)
    assert "YOLO labels in data.yaml: 9 images" in found.text and found.splits == {"train": 5, "val": 4}
    same_images(open_source("auto", "all", root=tmp_path), IMAGES)


def test_a_config_whose_folders_are_not_there_names_the_classes(yolo):
    (yolo / "images").rename(yolo / "pictures")
    (yolo / "labels").rename(yolo / "pictures" / "labels")
    for path in (yolo / "pictures" / "labels").rglob("*.txt"):
        path.rename(yolo / "pictures" / path.parent.name / path.name)
    found = describe_folder(yolo)
    assert found.class_names == ("bright", "dark")
    notes = "; train of data.yaml has no images with labels; val of data.yaml has no images with labels"
    assert f"{notes}; class names in data.yaml" in found.text
    with pytest.raises(ValueError) as error:
        describe_folder(yolo, strict=True)
    one_line(error, f"{yolo / 'data.yaml'}: with strict, its images must have labels; got none")


# -- encodings

ENCODINGS = ["utf-8-sig", "utf-16"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", [name for name in LAYOUTS if "Hugging" not in name])
def test_encodings_of_annotations(tmp_path, name, encoding):
    """Whatever programs write: a byte order mark, or UTF-16, as PowerShell does."""
    write, kind, splits = LAYOUTS[name]
    write(tmp_path, IMAGES)
    for path in tmp_path.rglob("*.*"):
        if path.is_file() and path.suffix != ".png":
            path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    found = describe_folder(tmp_path)
    assert found.class_names == IMAGES.class_names and set(found.splits) == splits
    same_images(open_source(kind, "all", root=tmp_path), IMAGES)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_of_labels_without_a_config(tmp_path, encoding):
    yolo_images(tmp_path, IMAGES)
    for path in tmp_path.rglob("*.txt"):
        path.write_bytes(path.read_text().encode(encoding))
    same_images(open_source("auto", "all", root=tmp_path, class_names=["bright", "dark"]), IMAGES)


@pytest.mark.parametrize("word", ["nan", "inf", "-1", "cat", "1.5"])
def test_a_text_that_is_no_label(tmp_path, word):
    voc_beside(tmp_path, IMAGES)
    write_text(tmp_path / "1.txt", f"{word} .5 .5 .1 .1\n")
    assert describe_folder(tmp_path).text.startswith(f"{tmp_path}: VOC XML in *.xml: 9 images")


# -- real data


REAL = {
    "bccd": (364, 4888, "voc", "train", "val"),
    "tiny_coco": (100, 842, "coco", "train", "val"),
    "voc2007": (19, 76, "box_list", "train", "test"),
    "voc2012_100": (100, 273, "voc", "all[~:80%]", "all[~80%:]"),
}


@pytest.mark.skipif("SSD_JAX_SHARED_DATA" not in os.environ, reason="SSD_JAX_SHARED_DATA names no data folder")
@pytest.mark.parametrize("name", REAL)
def test_real_datasets(name):
    root = Path(os.environ["SSD_JAX_SHARED_DATA"], name)
    if not root.is_dir():
        pytest.skip(f"no {root}")
    images, boxes, _, train, evaluation = REAL[name]
    found = describe_folder(root)
    assert (found.images, found.boxes, found.train, found.eval) == (images, boxes, train, evaluation)
    assert re.search(r"images, [\d,]+ boxes of \d+ classes", found.text)
