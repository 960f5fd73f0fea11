import logging
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import with_orientation

from ssd_jax import data
from ssd_jax.data import VOCFolder

IMAGE = np.full((50, 100, 3), 77, np.uint8)


def xml(*objects, size=(100, 50)):
    """Objects are (name, xmin, ymin, xmax, ymax[, difficult]); size is (width, height)."""
    sides = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation><filename>other.jpg</filename>{sides}{''.join(map(xml_object, objects))}</annotation>"


def xml_object(o):
    corners = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), o[1:5], strict=True)
    )
    difficult = f"<difficult>{o[5]}</difficult>" if len(o) > 5 else ""
    return f"<object><name>{o[0]}</name>{difficult}<bndbox>{corners}</bndbox></object>"


def add(root, name, annotation, image=IMAGE, extension=".jpg"):
    if annotation is not None:
        (root / "Annotations" / f"{name}.xml").write_text(annotation)
    if image is not None:
        (root / "JPEGImages" / f"{name}{extension}").write_bytes(cv2.imencode(extension, image)[1].tobytes())


def split(root, name, *ids):
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))


@pytest.fixture
def root(tmp_path):
    """Three images: a dog and a difficult cat; nothing; a bird."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    add(tmp_path, "a", xml(("dog", 10, 5, 60, 25, 0), ("cat", 1, 1, 100, 50, 1)))
    add(tmp_path, "b", xml(), extension=".png")
    add(tmp_path, "c", xml(("bird", "20.5", 10, 30, 20)), extension=".JPEG")
    split(tmp_path, "train", "b", "a")
    split(tmp_path, "val", "c")
    return tmp_path


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


def test_examples(root):
    source = VOCFolder(root, "train")
    assert source.class_names == ("bird", "cat", "dog")
    assert source.inclusive and len(source) == 2
    empty, pets = source[0], source[1]
    assert (empty.image_id, pets.image_id) == ("b", "a")
    assert pets.image == (root / "JPEGImages" / "a.jpg").read_bytes()
    np.testing.assert_array_equal(data.decode_image(empty.image), IMAGE)

    assert pets.boxes.dtype == np.float32 and pets.labels.dtype == np.int32 and pets.difficult.dtype == bool
    # xml / side, and nothing subtracted: (10/100, 5/50, 60/100, 25/50) and (1/100, 1/50, 1, 1)
    np.testing.assert_array_equal(pets.boxes, np.float32([[0.1, 0.1, 0.6, 0.5], [0.01, 0.02, 1, 1]]))
    np.testing.assert_array_equal(pets.labels, [3, 2])
    np.testing.assert_array_equal(pets.difficult, [False, True])
    assert empty.boxes.shape == (0, 4) and empty.labels.shape == (0,) and empty.difficult.shape == (0,)


def test_random_access(root):
    source = VOCFolder(root, "train+val")
    assert [source[i].image_id for i in (0, 1, 2, -1)] == ["b", "a", "c", "c"]
    np.testing.assert_allclose(source[2].boxes, [[0.205, 0.2, 0.3, 0.4]], rtol=1e-6)
    assert len(source[0].boxes) == 0 and len(source[1].boxes) == 2
    with pytest.raises(IndexError):
        source[3]


def test_all_splits_number_the_classes_alike(root):
    assert VOCFolder(root, "train").class_names == VOCFolder(root, "val").class_names
    given = VOCFolder(root, "val", class_names=["zebra", "bird"])
    assert given.class_names == ("zebra", "bird")
    np.testing.assert_array_equal(given[0].labels, [2])


def test_an_image_listed_twice_is_taken_once(root, caplog):
    split(root, "trainval", "a", "b", "c")
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        source = VOCFolder(root, "train+trainval")
    assert source.image_ids == ["b", "a", "c"]
    assert [r.getMessage() for r in caplog.records] == [
        f"{root}, split train+trainval: images listed more than once are taken once: b, a"
    ]


def test_a_split_file_may_have_blank_lines_windows_line_ends_and_names_with_spaces(root):
    add(root, "my dog", xml(("dog", 1, 1, 9, 9)))
    (root / "ImageSets/Main/mixed.txt").write_bytes(b"\xef\xbb\xbfa\r\n\r\n  my dog \r\nc")
    assert VOCFolder(root, "mixed").image_ids == ["a", "my dog", "c"]


@pytest.mark.parametrize("size", [None, (0, 0), (100, 0)])
def test_a_missing_size_is_read_from_the_image(root, size):
    add(root, "a", xml(("dog", 10, 5, 60, 25), size=size))
    np.testing.assert_array_equal(VOCFolder(root, "train")[1].boxes, np.float32([[0.1, 0.1, 0.6, 0.5]]))


def test_parts_of_an_object_are_no_objects(root):
    head = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    add(root, "a", xml(("dog", 10, 5, 60, 25)).replace("</object>", head + "</object>"))
    source = VOCFolder(root, "train")
    assert source.class_names == ("bird", "dog")
    np.testing.assert_array_equal(source[1].boxes, np.float32([[0.1, 0.1, 0.6, 0.5]]))


def test_boxes_of_no_size_are_dropped_with_one_warning(root, caplog):
    good = ("dog", 10, 5, 60, 25)
    thin, low, inverted, beyond = (
        ("dog", 9, 5, 9, 9),
        ("cat", 1, 7, 9, 7),
        ("dog", 9, 9, 5, 12),
        ("dog", 101, 1, 120, 9),
    )
    add(root, "a", xml(thin, good, low))
    add(root, "c", xml(inverted, good, beyond))
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        source = VOCFolder(root, "train+val")
    assert [r.getMessage() for r in caplog.records] == [
        f"{root}, split train+val: boxes that have no size were dropped: 4, in a, c"
    ]
    for i in (1, 2):
        np.testing.assert_array_equal(source[i].boxes, np.float32([[0.1, 0.1, 0.6, 0.5]]))
        np.testing.assert_array_equal(source[i].labels, [source.class_names.index("dog") + 1])
        np.testing.assert_array_equal(source[i].difficult, [False])


def test_boxes_reaching_outside_are_clipped_with_one_warning(root, caplog):
    add(root, "a", xml(("dog", -10, 5, 60, 25), ("dog", 50, 5, 110, 60)))
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        source = VOCFolder(root, "train")
    assert [r.getMessage() for r in caplog.records] == [
        f"{root}, split train: boxes that reach outside their image were clipped: 2, in a"
    ]
    np.testing.assert_array_equal(source[1].boxes, np.float32([[0, 0.1, 0.6, 0.5], [0.5, 0.1, 1, 1]]))


def test_long_lists_of_names_are_shortened(root, caplog):
    names = [f"n{i:02}" for i in range(13)]
    for name in names:
        add(root, name, xml(("dog", 9, 5, 9, 9)))
    split(root, "many", *names)
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        VOCFolder(root, "many")
    assert caplog.records[0].getMessage().endswith(f"were dropped: 13, in {', '.join(names[:10])} and 3 more")


# -- what other programs write


NAMESPACES = {
    "default": lambda text: text.replace("<annotation>", '<annotation xmlns="http://example.org/voc">'),
    "of objects": lambda text: text.replace("<object>", '<object xmlns="http://example.org/voc">'),
    "prefix": lambda text: re.sub("<(/?)", r"<\1v:", text).replace("annotation>", 'annotation xmlns:v="urn:v">', 1),
}


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_namespaces_make_no_difference(root, namespace):
    add(root, "a", NAMESPACES[namespace](xml(("dog", 10, 5, 60, 25, 1))))
    example = VOCFolder(root, "train")[1]
    np.testing.assert_array_equal(example.boxes, np.float32([[0.1, 0.1, 0.6, 0.5]]))
    assert example.difficult.tolist() == [True] and example.size == (50, 100)


@pytest.mark.parametrize(
    ("declared", "written"),
    [
        ("GB2312", "gb18030"),
        ("gbk", "gbk"),
        ("Shift_JIS", "shift_jis"),
        ("ANSI", "cp1252"),
        ("ANSI", "utf-8"),
        ("windows-1252", "cp1252"),
        ("utf-16", "utf-8"),
        ("utf-16", "utf-16"),
        ("mine", "utf-8"),
    ],
)
def test_declared_encodings(root, declared, written):
    name = "caf\u00e9" if written == "cp1252" else "\u72ac"  # a dog
    text = f'<?xml version="1.0" encoding="{declared}"?>\n' + xml((name, 1, 1, 9, 9))
    (root / "Annotations" / "a.xml").write_bytes(text.encode(written))
    assert VOCFolder(root, "train").class_names == ("bird", name)


@pytest.mark.parametrize("declared", ["mine", "hex", "idna", "GB2312", "utf-8"])
def test_text_that_is_not_in_the_declared_encoding(root, declared):
    text = f'<?xml version="1.0" encoding="{declared}"?>\n' + xml(("dog\u00e9", 1, 1, 9, 9))
    (root / "Annotations" / "a.xml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError) as error:
        VOCFolder(root, "train")
    one_line(error, f"{root / 'Annotations/a.xml'}: the file must be")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_encodings_of_split_files(root, encoding):
    add(root, "\u00e9t\u00e9", xml())
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""  # PowerShell writes it
    (root / "ImageSets/Main/train.txt").write_bytes(f"{mark}a\r\n\u00e9t\u00e9\r\n".encode(encoding))
    assert VOCFolder(root, "train").image_ids == ["a", "\u00e9t\u00e9"]


def test_class_lists_of_voc(root):
    add(root, "image 1", xml())
    split(root, "dog_train", "a  1", "b -1", "c  0", "image 1", "image 1 -1")
    assert VOCFolder(root, "dog_train").image_ids == ["a", "c", "image 1"]
    split(root, "none", "a -1", "b -1")
    with pytest.raises(ValueError) as error:
        VOCFolder(root, "none")
    one_line(error, f"{root / 'ImageSets/Main/none.txt'}: a split must list at least one image; this one is")


def test_a_hidden_image_may_be_listed(root):
    add(root, ".hidden", xml(("cow", 1, 1, 9, 9)))
    assert "cow" not in VOCFolder(root, "train").class_names  # other programs leave such files behind
    split(root, "all", "a", ".hidden")
    source = VOCFolder(root, "all")
    assert source[1].file == ".hidden.jpg" and "cow" in source.class_names
    assert VOCFolder(root, "all", class_names=["cow", "dog", "cat"])[1].labels.tolist() == [1]


@pytest.mark.parametrize("extension", data.EXTENSIONS)
def test_extensions(root, extension):
    image = IMAGE[:, :, 0] if extension == ".pgm" else IMAGE
    add(root, "other", xml(("dog", 10, 5, 60, 25), size=None), image, extension)
    split(root, "others", "other")
    (example,) = VOCFolder(root, "others")
    np.testing.assert_array_equal(example.boxes, np.float32([[0.1, 0.1, 0.6, 0.5]]))
    assert np.abs(example.decode().mean(axis=(0, 1)) - 77).max() < 8  # GIF has few colours, which are mixed


# -- coordinates and sizes


def test_fractions_are_noticed(root, caplog):
    add(root, "a", xml(("dog", 0.1, 0.1, 0.6, 0.5), ("dog", 0, 0, 1, 1), ("cat", 1, 1, 100, 50)))
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        VOCFolder(root, "train")
    assert [r.getMessage() for r in caplog.records] == [
        f"{root}, split train: corners must be pixels, which those of 2 boxes are not if they are fractions: all are "
        "within 0..1, in a"
    ]
    with pytest.raises(ValueError, match="corners must be pixels"):
        VOCFolder(root, "train", strict=True)


STORED = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 12, 3), np.uint8), (100, 50))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("size", "annotated"), [((50, 100), "upright"), (None, "upright"), ((100, 50), "stored")])
def test_boxes_and_pixels_agree_where_an_image_is_turned(root, size, annotated, kind):
    """A dog in the upper left corner of what the annotator saw; by EXIF, the stored pixels are turned clockwise."""
    extension = {"JPEG": ".jpg", "PNG": ".png"}[kind]
    (root / "JPEGImages" / "a.jpg").unlink()
    add(root, "a", xml(("dog", 0, 0, 10, 10), size=size), image=None)
    (root / "JPEGImages" / f"a{extension}").write_bytes(with_orientation(STORED, 6, kind))
    source = VOCFolder(root, "train")
    seen = np.rot90(STORED, -1) if annotated == "upright" else STORED
    np.testing.assert_allclose(source[1].decode().astype(int), seen, atol=0 if kind == "PNG" else 40)
    h, w = seen.shape[:2]
    np.testing.assert_allclose(source[1].boxes, [[0, 0, 10 / w, 10 / h]], rtol=1e-6)
    (batch,) = data.eval_batches(source, batch_size=2, image_size=32)
    assert batch.info["sizes"][1].tolist() == [h, w] and not batch.info["size_differs"].any()


def test_a_size_that_fits_neither_way_is_reported(root, caplog):
    add(root, "a", xml(("dog", 10, 5, 60, 25), size=(200, 120)))
    options = dict(batch_size=2, image_size=32)
    message = "a: the size in the annotation must be the image's, 100 x 50; got 200 x 120"
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        list(data.eval_batches(VOCFolder(root, "train"), **options))
        train = data.train_batches(VOCFolder(root, "train"), batch_size=2, canvas_size=64, max_boxes=2, seed=0)
        for _ in range(3):
            next(train)
    count = "the size in the annotation is not the image's: 1 of the 2 images that this process read"
    assert [r.getMessage() for r in caplog.records] == [message, count] * 2

    for mismatch, strict in (("error", False), ("warn", True)):
        source = VOCFolder(root, "train", options=data.ReadOptions(size_mismatch=mismatch))
        with pytest.raises(ValueError, match=message):
            list(data.eval_batches(source, strict=strict, **options))
    caplog.clear()
    list(data.eval_batches(VOCFolder(root, "train", options=data.ReadOptions(size_mismatch="ignore")), **options))
    assert not caplog.records


def test_limits_on_files(root):
    with pytest.raises(ValueError) as error:
        VOCFolder(root, "train", options=data.ReadOptions(max_annotation_bytes=3))
    one_line(error, f"{root / 'ImageSets/Main/train.txt'}: must have at most 3 bytes; got 4")
    (root / "Annotations" / "a.xml").unlink()
    os.mkfifo(root / "Annotations" / "pipe.xml")
    (root / "Annotations" / "a.xml").symlink_to("pipe.xml")
    with pytest.raises(FileNotFoundError) as error:
        VOCFolder(root, "train")
    one_line(error, "an image must have an annotation; there is no", "a.xml")


# -- errors: one line, the file and the rule


def test_a_missing_folder(root):
    with pytest.raises(FileNotFoundError) as error:
        VOCFolder(root / "nowhere", "train")
    one_line(error, f"{root / 'nowhere'}: no such folder")


def test_a_folder_of_another_layout(root):
    (root / "JPEGImages").rename(root / "images")
    with pytest.raises(FileNotFoundError) as error:
        VOCFolder(root, "train")
    one_line(
        error, f"{root}: a VOC folder must hold Annotations, JPEGImages and ImageSets/Main; this one lacks JPEGImages"
    )


def test_a_missing_split_lists_those_there_are(root):
    with pytest.raises(FileNotFoundError) as error:
        VOCFolder(root, "train+test")
    one_line(error, f"{root / 'ImageSets/Main/test.txt'}: no such split; found train, val")


def test_an_empty_split(root):
    split(root, "test")
    with pytest.raises(ValueError) as error:
        VOCFolder(root, "test")
    one_line(error, f"{root / 'ImageSets/Main/test.txt'}: a split must list at least one image; this one is empty")


def test_an_annotation_without_its_image(root):
    (root / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError) as error:
        VOCFolder(root, "train")
    one_line(error, f"{root / 'Annotations/a.xml'}: an annotation must have an image; there is no a.jpg/.jpeg/.png/")


def test_an_image_without_its_annotation(root):
    (root / "Annotations" / "a.xml").unlink()
    with pytest.raises(FileNotFoundError) as error:
        VOCFolder(root, "train")
    one_line(error, f"{root / 'JPEGImages/a.jpg'}: an image must have an annotation; there is no", "tions/a.xml")


def test_a_name_that_is_neither(root):
    split(root, "typo", "a", "z")
    with pytest.raises(FileNotFoundError) as error:
        VOCFolder(root, "typo")
    one_line(error, f"{root}: split typo lists 'z', which has neither annotation nor image")


def annotation_error(root, text, **kwargs):
    (root / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(ValueError) as error:
        VOCFolder(root, "train", **kwargs)
    return error


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotation><object>",
        xml(("dog", 1, 1, 9, 9))[:80],
        f'<?xml version="1.0" encoding=""?>{xml()}',
    ],
)
def test_broken_xml(root, text):
    one_line(annotation_error(root, text), f"{root / 'Annotations/a.xml'}: the file must be well-formed XML; got ")


@pytest.mark.parametrize("value", ["ten", "", "nan", "inf", "1e999"])
def test_a_coordinate_that_is_no_number(root, value):
    error = annotation_error(root, xml(("dog", 1, 1, value, 9)))
    one_line(error, f"{root / 'Annotations/a.xml'}: <bndbox/xmax> must be a finite number; got {value!r}")


def test_a_missing_coordinate(root):
    error = annotation_error(root, "<annotation><object><name>dog</name></object></annotation>")
    one_line(error, f"{root / 'Annotations/a.xml'}: <bndbox/xmin> must be a finite number; got ''")


def test_a_root_of_another_format(root):
    one_line(annotation_error(root, "<annotations><image/></annotations>"), "the root must be <annotation>; got")


def test_a_difficult_flag_that_is_no_number(root):
    error = annotation_error(root, xml(("dog", 1, 1, 9, 9, "maybe")))
    one_line(error, f"{root / 'Annotations/a.xml'}: <difficult> must be a finite number; got 'maybe'")


def test_an_object_without_a_name(root):
    error = annotation_error(root, xml((" ", 1, 1, 9, 9)))
    one_line(error, f"{root / 'Annotations/a.xml'}: the <name> of every <object> must be one line of text; got ''")


def test_a_class_not_in_the_list(root):
    error = annotation_error(root, xml(("wolf", 1, 1, 9, 9)), class_names=["dog", "cat"])
    rule = "the class of every object must be one of dog, cat, unless drop_other_classes"
    one_line(error, f"{root / 'Annotations/a.xml'}: {rule}; got 'wolf'")


def test_class_names_differ(root):
    for names, got in ((["dog", "cat", "dog"], "dog, cat, dog"), ([], "none")):
        with pytest.raises(ValueError) as error:
            VOCFolder(root, "train", class_names=names)
        one_line(error, f"class_names must be one or more different names; got {got}")


def test_a_folder_without_objects_has_no_classes(root):
    for name in "abc":
        add(root, name, xml())
    with pytest.raises(ValueError) as error:
        VOCFolder(root, "train")
    one_line(error, f"{root / 'Annotations'}: the annotations must have an object, to find the classes; got none")
    assert len(VOCFolder(root, "train", class_names=["dog"])) == 2


def test_a_size_that_can_be_read_nowhere(root):
    add(root, "a", xml(("dog", 1, 1, 9, 9), size=None))
    (root / "JPEGImages" / "a.jpg").write_bytes(b"what")
    with pytest.raises(ValueError) as error:
        VOCFolder(root, "train")
    one_line(
        error,
        f"{root / 'JPEGImages/a.jpg'}: must be readable, since its annotation has no size; got the file must be",
    )


def test_an_image_that_vanishes_is_unreadable(root, caplog):
    source = VOCFolder(root, "train")
    (root / "JPEGImages" / "a.jpg").unlink()
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        (batch,) = data.eval_batches(source, batch_size=2, image_size=32)
    np.testing.assert_array_equal(batch.info["readable"], [True, False])
    assert source[1].image_id == "a" and len(source[1].boxes) == 2
    assert [r.getMessage() for r in caplog.records[:2]] == [
        f"{root / 'JPEGImages/a.jpg'}: No such file or directory",
        "a: the file is empty",
    ]


# -- through the pipeline


def test_through_batches(root):
    source = VOCFolder(root, "train+val")
    options = dict(batch_size=3, canvas_size=64, max_boxes=2, seed=0)
    batch = next(data.train_batches(source, **options))
    assert batch.info["readable"].all() and batch.arrays["sizes"].tolist() == [[32, 64]] * 3
    assert dict(zip(batch.info["index"].tolist(), batch.arrays["labels"].tolist(), strict=True)) == {
        0: [0, 0],
        1: [3, 2],
        2: [1, 0],
    }
    (batch,) = data.eval_batches(source, batch_size=4, image_size=32)
    assert batch.info["sizes"].tolist() == [[50, 100]] * 3 + [[0, 0]]


@pytest.mark.skipif("SSD_JAX_SHARED_DATA" not in os.environ, reason="SSD_JAX_SHARED_DATA names no data folder")
def test_blood_cells(caplog):
    root = Path(os.environ["SSD_JAX_SHARED_DATA"], "bccd", "BCCD")
    if not root.is_dir():
        pytest.skip(f"no blood cells in {root}")
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        train, test = VOCFolder(root, "train+val"), VOCFolder(root, "test")
    assert [r.getMessage() for r in caplog.records] == [
        f"{root}, split train+val: boxes that have no size were dropped: 2, in BloodImage_00343, BloodImage_00338"
    ]
    assert train.class_names == ("Platelets", "RBC", "WBC")
    assert (len(train), len(test)) == (292, 72)
    counts = [np.bincount(np.concatenate([e.labels for e in source])) for source in (train, test)]
    # 361 platelets, 4155 red and 372 white cells in all, less the two red ones of no size
    np.testing.assert_array_equal(np.sum(counts, axis=0), [0, 361, 4153, 372])
