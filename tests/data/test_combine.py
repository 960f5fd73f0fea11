"""Sources made of sources, and sources by name."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import test_coco
import test_voc

from ssd_jax import data
from ssd_jax.data import (
    Example,
    Examples,
    Joined,
    OnlyClasses,
    Subset,
    VOCFolder,
    coco_truth,
    open_coco,
    open_source,
)
from ssd_jax.metrics import COCOMetric

coco = pytest.fixture(name="coco")(test_coco.root.__wrapped__)
voc = pytest.fixture(name="voc")(test_voc.root.__wrapped__)


def example(name, *labels):
    n = len(labels)
    boxes = np.tile(np.float32([0, 0, 1, 1]), (n, 1)) / (1 + np.arange(n, dtype=np.float32)[:, None])
    return Example(name, np.zeros((4, 4, 3), np.uint8), boxes, np.int32(labels).reshape(n), np.zeros(n, bool))


A = Examples([example("a0", 1, 2), example("a1"), example("a2", 2)], ("cat", "dog"))
B = Examples((example("b0", 1),), ("cat", "dog"))


def names(source):
    return [source[i].image_id for i in range(len(source))]


def test_a_list_of_examples():
    assert len(A) == 3 and A.class_names == ("cat", "dog") and not A.inclusive
    assert A[-1].image_id == "a2"
    batch = next(iter(data.eval_batches(A, batch_size=3, image_size=8)))
    assert batch.info["readable"].all()
    with pytest.raises(IndexError):
        A[3]
    with pytest.raises(ValueError, match="x: labels must be from 1 to 2, the number of classes; got 3"):
        Examples([example("x", 3)], ("cat", "dog"))[0]
    with pytest.raises(ValueError, match="class_names must be one or more different names; got cat, cat"):
        Examples([], ("cat", "cat"))


def test_joined():
    joined = Joined([A, B, A])
    assert names(joined) == ["a0", "a1", "a2", "b0", "a0", "a1", "a2"] and len(joined) == 7
    assert joined[-4].image_id == "b0" and joined.class_names == ("cat", "dog")
    with pytest.raises(IndexError):
        joined[7]
    with pytest.raises(ValueError, match=r"the same classes in the same order .*; got cat, dog and dog, cat"):
        Joined([A, Examples([example("b")], ("dog", "cat"))])
    with pytest.raises(ValueError, match=r"must all be inclusive \(.*\) or none; got both"):
        Joined([A, Examples([example("b")], ("cat", "dog"), inclusive=True)])
    with pytest.raises(ValueError, match="got none"):
        Joined([])


def test_subset():
    assert names(Subset(A, slice(1, None))) == ["a1", "a2"]
    assert names(Subset(A, [2, 0, -1])) == ["a2", "a0", "a2"]
    assert names(Subset(Subset(A, slice(None, None, -1)), slice(2))) == ["a2", "a1"]
    with pytest.raises(ValueError, match="a subset must have at least one image; got slice"):
        Subset(A, slice(3, None))


def test_only_some_classes():
    dogs = OnlyClasses(A, ["dog"])
    assert dogs.class_names == ("dog",) and names(dogs) == ["a0", "a1", "a2"]
    assert [dogs[i].labels.tolist() for i in range(3)] == [[1], [], [1]]
    np.testing.assert_array_equal(dogs[0].boxes, [[0, 0, 0.5, 0.5]])  # the second of a0
    swapped = OnlyClasses(A, ["dog", "cat"])
    assert [swapped[i].labels.tolist() for i in range(3)] == [[2, 1], [], [1]]
    assert dogs[0].labels.dtype == np.int32
    with pytest.raises(ValueError, match="a class must be one of cat, dog; got 'doog'"):
        OnlyClasses(A, ["doog"])


def test_the_truth_of_coco_follows(coco):
    source = open_coco(coco, "train")
    chosen = OnlyClasses(Subset(source, [2, 0]), ["cat", "dog"])
    truth = coco_truth(chosen)
    assert [image["id"] for image in truth["images"]] == [5, 7]
    assert [category["id"] for category in truth["categories"]] == [90, 18]  # in the order of the labels
    rows = [(row["image_id"], row["category_id"], row["iscrowd"]) for row in truth["annotations"]]
    assert sorted(rows) == [(5, 18, 0), (7, 18, 0), (7, 90, 0), (7, 90, 1)]
    assert {row["category_id"] for row in coco_truth(OnlyClasses(source, ["cat"]))["annotations"]} == {90}
    assert [image["id"] for image in coco_truth(Subset(source, slice(1, 2)))["images"]] == [3]
    assert coco_truth(Subset(source, slice(1, 2)))["annotations"] == []
    assert coco_truth(A) is coco_truth(Subset(A, [0])) is coco_truth(OnlyClasses(A, ["cat"])) is None
    assert coco_truth(Joined([A, B])) is None


def objects(truth):
    """The objects of a ground truth, as (file name, class name, box, area, crowd)."""
    images = {image["id"]: image["file_name"] for image in truth["images"]}
    classes = {category["id"]: category["name"] for category in truth["categories"]}
    assert len(images) == len(truth["images"]) and len(classes) == len(truth["categories"])
    rows = truth["annotations"]
    assert len({row["id"] for row in rows}) == len(rows) and all(row["id"] > 0 for row in rows)
    return [
        (images[row["image_id"]], classes[row["category_id"]], *row["bbox"], row["area"], row["iscrowd"])
        for row in rows
    ]


def test_joined_sources_have_a_joined_truth(coco):
    """The same ids for other images and other classes: joined, every object keeps its image and its class."""
    changed = test_coco.data()
    for image, name in zip(changed["images"], ("q7", "q3", "q5"), strict=True):
        image["file_name"] = f"{name}.jpg"
        (coco / "train" / f"{name}.jpg").write_bytes((coco / "train" / "p7.jpg").read_bytes())
    changed["categories"] = [{"id": 90, "name": "dog"}, {"id": 18, "name": "bird"}, {"id": 44, "name": "cat"}]
    (coco / "other.json").write_text(json.dumps(changed))
    parts = ("train", "other.json:train")
    joined = open_source("coco_json", "+".join(parts), root=coco, class_names=("cat", "dog", "bird"))
    truths = [coco_truth(open_source("coco_json", part, root=coco)) for part in parts]
    truth = coco_truth(joined)
    assert sorted(objects(truth)) == sorted(objects(truths[0]) + objects(truths[1]))
    assert [image["file_name"] for image in truth["images"]] == names(joined)
    assert [category["name"] for category in truth["categories"]] == ["cat", "dog", "bird"]
    assert len(truth["images"]) == 6 and len({image["id"] for image in truth["images"]}) == 6

    again = Subset(joined, [0, 5, 0])  # one image twice
    assert [image["file_name"] for image in coco_truth(again)["images"]] == ["p7.jpg", "q5.jpg", "p7.jpg"]
    assert len(objects(coco_truth(again))) == 3 + 1 + 3
    assert coco_truth(Joined([joined, OnlyClasses(A, ["cat", "dog", "bird"], allow_missing=True)])) is None


def perfect(source):
    """COCO's AP of a detector that finds every object of `source` and no other."""
    truth = coco_truth(source)
    metric = COCOMetric(truth)
    for image, found in zip(truth["images"], source, strict=True):
        size = np.array([image["width"], image["height"]] * 2, np.float32)
        metric.add(image["id"], found.boxes * size, np.ones(len(found.boxes), np.float32), found.labels)
    return metric.compute()["AP"]


def test_a_perfect_detector_on_joined_truth(coco):
    assert perfect(open_source("coco_json", "train+train", root=coco)) == 1


# -- by name


def test_open_voc(voc):
    assert names(open_source("voc_folder", "train+val", root=voc)) == ["b", "a", "c"]
    below = f"{voc.name}:train+{voc.name}:val+{voc.name}:train"
    again = open_source("voc_folder", below, root=voc.parent)
    assert names(again) == ["b", "a", "c"] and isinstance(again, VOCFolder)
    cut = open_source("voc_folder", f"{voc.name}:train[1:]+{voc.name}:train[:50%]", root=voc.parent)
    assert names(cut) == ["a", "b"] and cut.inclusive


def test_voc_folders_are_joined(voc, tmp_path_factory):
    other = test_voc.root.__wrapped__(tmp_path_factory.mktemp("voc"))
    (other.parent / "one").symlink_to(voc)
    (other.parent / "two").symlink_to(other)
    joined = open_source("voc_folder", "one:train+two:val+two:train", root=other.parent)
    assert names(joined) == ["b", "a", "c", "b", "a"]
    test_voc.add(other, "c", test_voc.xml(("fish", 1, 1, 9, 9)))
    with pytest.raises(ValueError, match="must have the same classes in the same order"):
        open_source("voc_folder", "one:train+two:train", root=other.parent)
    classes = ("cat", "dog", "fish", "bird")
    joined = open_source("voc_folder", "one:train+two:train", root=other.parent, class_names=classes)
    assert joined.class_names == classes and joined[1].labels.tolist() == [2, 1]


def test_classes_of_a_voc_folder(voc):
    with pytest.raises(
        ValueError, match=r"a\.xml: the class of every object must be one of dog, unless drop_other_.*; got 'cat'"
    ):
        open_source("voc_folder", "train", root=voc, class_names=["dog"])
    dogs = open_source("voc_folder", "train", root=voc, class_names=["dog"], drop_other_classes=True)
    assert [len(dogs[i].boxes) for i in range(2)] == [0, 1] and dogs.class_names == ("dog",)


def test_open_coco_by_name(coco):
    source = open_source(
        "coco_json", "train[:1]+train", root=coco, class_names=["cat", "bird"], drop_other_classes=True
    )
    assert names(source) == ["p7.jpg", "p7.jpg", "p3.jpg", "p5.jpg"] and source[0].labels.tolist() == [1]
    assert names(open_source("coco_json", "annotations/instances_train.json:train[-34%:]", root=coco)) == ["p5.jpg"]
    with pytest.raises(ValueError, match="unless drop_other_classes; got dog"):
        open_source("coco_json", "train", root=coco, class_names=["cat", "bird"])


def named(source):
    """The objects of a source, as (image, class name, box)."""
    return sorted(
        (e.image_id, source.class_names[label - 1], *box)
        for e in (source[i] for i in range(len(source)))
        for box, label in zip(e.boxes.tolist(), e.labels.tolist(), strict=True)
    )


@pytest.mark.parametrize("kind", ["voc_folder", "coco_json", "shapes", "test_combine:pets"])
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_classes_are_mapped_by_name(request, kind, order):
    """The data numbers its classes in its own order; with `class_names` they are those, in any order, or more."""
    root = {"voc_folder": "voc", "coco_json": "coco"}.get(kind)
    root = request.getfixturevalue(root) if root else ""
    split = "train:9" if kind == "shapes" else "train"
    plain = open_source(kind, split, root=root)
    classes = (*plain.class_names, "zebra")[order]
    source = open_source(kind, split, root=root, class_names=classes)
    assert source.class_names == classes and named(source) == named(plain) != []

    used = sorted({name for _, name, *_ in named(plain)})
    with pytest.raises(ValueError, match=f"unless drop_other_classes; got '?{used[0]}") as raised:
        open_source(kind, split, root=root, class_names=(*used[1:], "zebra"))
    assert "\n" not in str(raised.value)
    rest = open_source(kind, split, root=root, class_names=(*used[1:], "zebra"), drop_other_classes=True)
    assert named(rest) == [row for row in named(plain) if row[1] != used[0]]


def pets(split):
    return {"train": A, "all": A}[split]


def test_a_category_without_objects_may_be_unknown(coco):
    source = open_source("coco_json", "train", root=coco, class_names=("cat", "dog"))  # no "bird"
    assert [category["name"] for category in coco_truth(source)["categories"]] == ["cat", "dog"]
    more = coco_truth(open_source("coco_json", "train", root=coco, class_names=("eel", "bird", "cat", "dog", "asp")))
    assert [(c["name"], c["id"]) for c in more["categories"]] == [
        ("eel", 91),
        ("bird", 44),
        ("cat", 90),
        ("dog", 18),
        ("asp", 92),
    ]


def test_strict_reaches_the_source(coco, voc):
    test_voc.add(voc, "a", test_voc.xml(("dog", 10, 5, 160, 25)))
    changed = test_coco.data()
    changed["annotations"][0]["bbox"] = [0, 0, 200, 10]
    test_coco.write(coco, changed)
    for kind, root in (("voc_folder", voc), ("coco_json", coco)):
        open_source(kind, "train", root=root)
        with pytest.raises(ValueError, match="with strict, boxes must not reach outside their image; got 1, in"):
            open_source(kind, "train", root=root, strict=True)


def test_open_a_function(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(
        "from test_combine import A\n\ndef pets(split):\n    return {'all': A}[split]\n\nlen = len\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert names(open_source("my_data:pets", "all[:67%]")) == ["a0", "a1"]
    with pytest.raises(
        ValueError, match=r"my_data:len: .* must return a source .*; got an object of type int without __len__, "
    ):
        open_source("my_data:len", "all")
    with pytest.raises(ValueError, match="my_data has no 'cars'"):
        open_source("my_data:cars", "all")
    with pytest.raises(ValueError, match="no_such:cars: the module must be importable; got: No module named"):
        open_source("no_such:cars", "all")


def test_the_dataset_of_the_documentation(coco, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def open" in code)
    (tmp_path / "page_data.py").write_text(code)
    (tmp_path / "first.jpg").write_bytes((coco / "train" / "p7.jpg").read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = open_source("page_data:open", "train")
    assert source.class_names == ("cat", "dog") and len(named(source)) == 1
    batch = next(data.eval_batches(source, batch_size=1, image_size=8))
    assert batch.info["readable"].all()


@pytest.mark.parametrize("split", ["train[", "train[1]", "train[:x]", "[:1]", "train[:1]x", ""])
def test_a_split_that_is_not_one(coco, split):
    with pytest.raises(ValueError, match=r"a (part of a )?split must be"):
        open_source("coco_json", split, root=coco)


@pytest.mark.parametrize("cut", ["[:0%]", "[:99]", "[-99:]", "[2:1]"])
def test_a_cut_must_be_some_of_the_images(voc, cut):
    message = re.escape(f"'train{cut}'") + r" must be one or more of the \d+ images of 'train'"
    with pytest.raises(ValueError, match=message):
        open_source("voc_folder", f"train{cut}", root=voc)


def test_an_unknown_kind():
    with pytest.raises(ValueError, match=r"a dataset must be one of .*; got 'vok'"):
        open_source("vok", "train")
