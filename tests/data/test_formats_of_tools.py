"""Annotation errors in the formats of labelling tools, and what only some of them have."""

import json
import os
import sys

import numpy as np
import pytest
import tiny
from layouts import cvat, label_studio, labelme, write_image, write_text
from test_auto import IMAGES, same_images
from test_voc import one_line

from ssd_jax.data import describe_folder, open_source

PICTURE = tiny.Images()[1].image  # 64 x 64


def refused(root, *parts, **options):
    with pytest.raises((ValueError, OSError)) as error:
        open_source("auto", "all", root=root, **options)
    one_line(error, *parts)


@pytest.fixture
def root(tmp_path):
    write_image(tmp_path / "a.png", PICTURE)
    write_image(tmp_path / "b.png", PICTURE[::-1])
    return tmp_path


def boxes(root, index=0):
    """Return the corners of an image in pixels."""
    return open_source("auto", "all", root=root)[index].boxes * 64


# -- CSV

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("a.png,64,64,dog,1,2,x,9", "line 2: x_max must be a finite number; got 'x'"),
        ("a.png,64,64,dog,1,2,,9", "line 2: x_max must be a finite number; got ''"),
        ("a.png,64,64,dog,1,2,inf,9", "line 2: x_max must be a finite number; got 'inf'"),
        ("a.png,64,64,,1,2,8,9", "line 2: the class must be one line of text; got ''"),
        (",64,64,dog,1,2,8,9", "line 2: the column of the image must have a file name; got ''"),
        ("a.png,wide,64,dog,1,2,8,9", "line 2: width must be a finite number; got 'wide'"),
        (
            "a.png,64,64,dog,1,2,8,9\na.png,60,64,dog,1,2,8,9",
            "line 3: the rows of an image must have one size",
        ),
    ],
)
def test_rows_that_break_a_rule(root, row, rule):
    write_text(root / "labels.csv", f"{HEADER}\n{row}\n")
    refused(root, f"{root / 'labels.csv'}: {rule}")


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{HEADER}\r\na.png,64,64,dog,8,16,32,64\r\n",
        "image_name;x1;y1;x2;y2;label\n" + "a.png;8;16;32;64;dog\n",
        "label\txmin\tymin\txmax\tymax\tfile\n" + "dog\t8\t16\t32\t64\tC:\\data\\A.PNG\n",
        f'{HEADER}\n"a.png",64,64,"dog",8.0,16,32,64\n\n',
    ],
)
def test_columns_of_other_programs(root, text):
    write_text(root / "labels.csv", text)
    np.testing.assert_allclose(boxes(root), [[8, 16, 32, 64]])


def test_a_group_of_open_images_is_difficult(root):
    write_text(root / "x.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,/m/1,0.1,0.5,0.2,0.6,1\n")
    (example,) = open_source("auto", "all", root=root)
    np.testing.assert_allclose(example.boxes, [[0.1, 0.2, 0.5, 0.6]])
    assert example.difficult.tolist() == [True]


def test_an_image_in_two_files(root):
    write_text(root / "all.csv", f"{HEADER}\na.png,64,64,dog,8,16,32,64\nb.png,64,64,dog,8,16,32,64\n")
    write_text(root / "test.csv", f"{HEADER}\na.png,64,64,dog,8,16,32,64\n")
    assert describe_folder(root).splits == {"test": 1}
    write_text(root / "test.csv", f"{HEADER}\na.png,64,64,dog,8,16,32,60\n")
    refused(
        root, f"{root / 'test.csv'}: an image that is in several files must have the same boxes in each; got a.png"
    )


def test_fractions_in_a_table_of_pixels_are_noticed(root, caplog):
    write_text(root / "all.csv", f"{HEADER}\na.png,64,64,dog,0.1,0.2,0.5,0.7\n")
    open_source("auto", "all", root=root)
    assert "corners must be pixels, which those of 1 boxes are not" in caplog.text
    refused(root, "corners must be pixels", strict=True)


# -- LabelMe


def labelme_file(root, **changes):
    shape = {"label": "dog", "points": [[8, 16], [32, 64]], "shape_type": "rectangle", "flags": {}}
    data = {"shapes": [shape | changes.pop("shape", {})], "imagePath": "a.png", "imageHeight": 64, "imageWidth": 64}
    write_text(root / "a.json", json.dumps(data | changes))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"shape": {"points": [[1, 2]]}}, "points must be 2 or more pairs of finite numbers; got [[1, 2]]"),
        ({"shape": {"points": [[1, 2], [3, "x"]]}}, "points must be 2 or more pairs of finite numbers"),
        ({"shape": {"points": [[1, 2], [3, float("nan")]]}}, "points must be 2 or more pairs of finite numbers"),
        ({"shape": {"label": ""}}, "the label of a shape must be one line of text; got ''"),
        ({"shape": {"label": 7}}, "the label of a shape must be one line of text; got 7"),
        ({"shape": {"shape_type": "star"}}, "shape_type must be one of rectangle, polygon, circle"),
        ({"shapes": {}}, "must be an object with a list shapes and a text imagePath"),
        ({"shapes": [3]}, "every entry of shapes must be an object; got 3"),
        ({"imagePath": 3}, "must be an object with a list shapes and a text imagePath"),
    ],
)
def test_labelme_files_that_break_a_rule(root, changes, rule):
    labelme_file(root, **changes)
    refused(root, f"{root / 'a.json'}: {rule}")


def test_shapes_of_labelme(root):
    labelme_file(root, shape={"shape_type": "circle", "points": [[20, 30], [23, 34]], "flags": {"difficult": True}})
    np.testing.assert_allclose(boxes(root), [[15, 25, 25, 35]])
    assert open_source("auto", "all", root=root)[0].difficult.tolist() == [True]
    labelme_file(root, shape={"shape_type": "line"}, imagePath="../../../etc/passwd")
    refused(root, "the annotations must have an object, to find the classes; got none")


def test_two_labelme_files_of_one_image(root):
    labelme_file(root)
    write_text(root / "c.json", (root / "a.json").read_text())
    refused(root, f"{root / 'c.json'}: an image must have one annotation; got a.png, which {root / 'a.json'} has too")


def test_a_labelme_file_of_a_lost_image(tmp_path, caplog):
    labelme(tmp_path, IMAGES)
    (tmp_path / "1.png").unlink()
    assert len(open_source("auto", "all", root=tmp_path)) == 8
    assert "annotations without an image were left out: 1 of 9 have none: 1.json" in caplog.text


# -- CVAT


def cvat_file(root, shapes, head="<annotations>"):
    image = f'<image id="0" name="a.png" width="64" height="64">{shapes}</image>'
    write_text(root / "annotations.xml", f"{head}{image}</annotations>")


BOX = '<box label="{}" xtl="{}" ytl="16" xbr="32" ybr="64" rotation="{}"/>'


@pytest.mark.parametrize(
    ("shapes", "rule"),
    [
        (BOX.format("dog", "x", 0), "xtl of a <box> must be a finite number; got 'x'"),
        (BOX.format("dog", "nan", 0), "xtl of a <box> must be a finite number; got 'nan'"),
        (BOX.format("", "8", 0), "the label of a <box> must be one line of text; got ''"),
        ('<polygon label="dog" points="1,2;3"/>', "points must be pairs of finite numbers, x,y;x,y; got '1,2;3'"),
        ('<ellipse label="dog" cx="1" cy="2" rx="3"/>', "ry of a <ellipse> must be a finite number; got ''"),
        ('<image id="1"/></image><image name=""', "the file must be well-formed XML"),
        ('</image><track id="0"/><image name="b.png">', "must be exported as 'CVAT for images'; got <track>"),
    ],
)
def test_cvat_files_that_break_a_rule(root, shapes, rule):
    cvat_file(root, shapes)
    refused(root, f"{root / 'annotations.xml'}: {rule}")


def test_shapes_of_cvat(root):
    mask = '<mask label="dog" rle="1" left="4" top="6" width="8" height="2"/>'
    hard = '<box label="dog" xtl="1" ytl="1" xbr="9" ybr="9"><attribute name="difficult">true</attribute></box>'
    cvat_file(root, BOX.format("dog", 8, 90) + mask + hard)
    # A box from 8, 16 to 32, 64 turned by a right angle about its middle, 20, 40.
    np.testing.assert_allclose(boxes(root), [[0, 28, 44, 52], [4, 6, 12, 8], [1, 1, 9, 9]], atol=1e-5)
    assert open_source("auto", "all", root=root)[0].difficult.tolist() == [False, False, True]


def test_a_namespace_in_cvat(root):
    cvat_file(root, BOX.format("dog", 8, 0), '<annotations xmlns="urn:cvat">')
    np.testing.assert_allclose(boxes(root), [[8, 16, 32, 64]])


def test_cvat_takes_its_classes_from_the_task(tmp_path):
    cvat(tmp_path, IMAGES)
    text = (tmp_path / "annotations.xml").read_text()
    write_text(tmp_path / "annotations.xml", text.replace("<labels>", "<labels><label><name>zebra</name></label>"))
    assert describe_folder(tmp_path).class_names == ("zebra", "bright", "dark")


# -- Label Studio


def label_studio_file(root, value, **more):
    result = {"type": "rectanglelabels", "value": value} | more
    task = {"data": {"image": "/data/local-files/?d=some/where/a.png"}, "annotations": [{"result": [result]}]}
    write_text(root / "export.json", json.dumps([task]))


VALUE = {"x": 25, "y": 50, "width": 25.0, "height": 50, "rotation": 0, "rectanglelabels": ["dog"]}


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ({"x": None}, "x, y, width, height must be finite numbers; got [None, 50, 25.0, 50]"),
        ({"x": "left"}, "x, y, width, height must be finite numbers; got ['left', 50, 25.0, 50]"),
        ({"rectanglelabels": "dog"}, "rectanglelabels must be a list of class names; got 'dog'"),
        ({"rectanglelabels": [""]}, "rectanglelabels must be a list of class names; got ['']"),
        ({"rotation": 90}, "a turned rectangle must have original_width and original_height"),
        ({"rotation": "much"}, "rotation must be a finite number; got 'much'"),
    ],
)
def test_label_studio_results_that_break_a_rule(root, value, rule):
    label_studio_file(root, VALUE | value)
    refused(root, f"{root / 'export.json'}: {rule}")


@pytest.mark.parametrize(
    ("tasks", "rule"),
    [
        ([3], "every task must be an object; got 3"),
        ([{"data": {}}], "the data of a task must name an image; got {}"),
        ([{"data": {"image": "a.png"}, "annotations": 3}], "annotations must be a list of objects; got 3"),
        ([{"data": {"image": "a.png"}, "annotations": [{}]}], "result must be a list; got None"),
        ([{"data": {"image": "a.png"}, "annotations": [{"result": [3]}]}], "every result must be an object; got 3"),
    ],
)
def test_label_studio_tasks_that_break_a_rule(root, tasks, rule):
    label_studio_file(root, VALUE)
    good = json.loads((root / "export.json").read_text())
    good[0]["data"]["image"] = "b.png"
    write_text(root / "export.json", json.dumps(good + tasks))
    if tasks == [{"data": {}}]:
        good[0]["data"] = {}
        write_text(root / "export.json", json.dumps(good))
    refused(root, f"{root / 'export.json'}: {rule}")


def test_shapes_of_label_studio(root):
    label_studio_file(root, VALUE)
    np.testing.assert_allclose(boxes(root), [[16, 32, 32, 64]])
    # Turned about its upper left corner by a right angle: to the left of it, as wide as it was high.
    label_studio_file(root, VALUE | {"rotation": 90}, original_width=64, original_height=64)
    np.testing.assert_allclose(boxes(root), [[0, 32, 16, 48]], atol=1e-4)  # clipped at the left
    label_studio_file(root, {"ellipselabels": ["dog"], "x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5})
    np.testing.assert_allclose(boxes(root), [[16, 24, 48, 40]])
    label_studio_file(root, {"polygonlabels": ["dog"], "points": [[25, 50], [50, 75], [50, 50]]})
    np.testing.assert_allclose(boxes(root), [[16, 32, 32, 48]])


def test_the_annotation_that_counts(tmp_path):
    label_studio(tmp_path, IMAGES)
    tasks = json.loads((tmp_path / "project-1.json").read_text())
    for task in tasks[:9]:
        last = {"result": [], "was_cancelled": False}
        task["annotations"] = [task["annotations"][0] | {"ground_truth": True}, last]
    write_text(tmp_path / "project-1.json", json.dumps(tasks))
    same_images(open_source("auto", "all", root=tmp_path), IMAGES)


# -- lists of boxes


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("b.png 1,2,x,4,0", "must be an image and five numbers for each box; got 'b.png 1,2,x,4,0'"),
        ("b.png 1,2,3,4", "must be an image and five numbers for each box"),
        ("b.png 1,2,3,4,0.5", "a class must be one of the numbers of the classes, from 0; got 0.5"),
        ("b.png 1,2,3,4,-1", "a class must be one of the numbers of the classes, from 0; got -1"),
        ("b.png 1,2,3,1e99,0", "corners must be finite numbers"),
        ("a.png 1,2,3,4,0", "an image must be in one line; got a.png twice"),
    ],
)
def test_lines_of_boxes_that_break_a_rule(root, line, rule):
    good = "".join(f"x{i}.png 1,2,30,40,0\n" for i in range(20))
    write_text(root / "train.txt", f"a.png 8,16,32,64,0\n{good}{line}\n")
    refused(root, f"{root / 'train.txt'}: line 22: {rule}")


def test_a_list_without_names(root):
    write_text(root / "voc_test.txt", "a.png 8 16 32 64 1\nb.png\n")
    found = describe_folder(root)
    assert found.class_names == ("0", "1") and found.splits == {"test": 2}
    np.testing.assert_allclose(boxes(root), [[8, 16, 32, 64]])


# -- Hugging Face


def test_a_saved_dataset_without_the_library(root, monkeypatch):
    write_text(root / "data" / "state.json", "{}")
    write_text(root / "data" / "dataset_info.json", "{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(root, "datasets must be installed: pip install 'ssd_jax[datasets]'")


def test_a_class_name_that_no_output_can_hold(root):
    labelme_file(root, shape={"label": "\ud800"})
    refused(root, f"{root}, a.json: a class name must be text that UTF-8 can hold; got '\\ud800'")


# -- limits


@pytest.mark.parametrize("name", ["labels.csv", "a.json", "a.xml", "data.yaml", "a.txt"])
def test_a_pipe_is_no_annotation(root, name):
    write_text(root / "boxes.csv", f"{HEADER}\na.png,64,64,dog,8,16,32,64\n")
    os.mkfifo(root / name)
    if name == "a.json":
        refused(root, f"{root / name}: must be a regular file; got a pipe")
    else:
        assert len(open_source("auto", "all", root=root)) == 1


def test_a_file_over_the_limit(root):
    labelme_file(root)
    refused(root, f"{root / 'a.json'}: must have at most 10 bytes", max_annotation_bytes=10)
