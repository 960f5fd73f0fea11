import itertools
import logging
import re
from collections import Counter

import cv2
import numpy as np
import pytest
from image_files import encode, make_image

from ssd_jax import data
from ssd_jax.data import Batch, Example, UnreadableImage
from ssd_jax.data.batches import train_batch_shapes


def example(name, image, n=1, difficult=None, size=None):
    boxes = np.linspace(0.05, 0.9, 4 * n, dtype=np.float32).reshape(n, 4)
    return Example(
        name,
        image,
        boxes,
        np.arange(1, n + 1, dtype=np.int32),
        np.zeros(n, bool) if difficult is None else np.array(difficult),
        size=size,
    )


def source(length, **kwargs):
    """Images of different sizes, with 0 to 3 objects each; their colour tells their place."""
    return [example(f"p{i}", np.full((20 + i, 30 - i, 3), 5 * i, np.uint8), i % 4, **kwargs) for i in range(length)]


def take(batches, n):
    return list(itertools.islice(batches, n))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(map(everything, ours), map(everything, theirs), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def everything(batch):
    return batch.arrays | batch.info


OPTIONS = dict(batch_size=4, canvas_size=32, max_boxes=3, seed=7)


# -- boxes


def test_pad_boxes():
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.1, 0.1], [0, 0, 1, 1]], np.float32)
    padded, labels = data.pad_boxes(boxes, np.array([3, 1, 2], np.int32), 5)
    np.testing.assert_array_equal(padded, np.concatenate([boxes, np.zeros((2, 4), np.float32)]))
    np.testing.assert_array_equal(labels, [3, 1, 2, 0, 0])
    padded, labels = data.pad_boxes(boxes, np.array([3, 1, 2], np.int32), 2)
    np.testing.assert_array_equal(padded, boxes[[0, 2]])
    np.testing.assert_array_equal(labels, [3, 2])
    padded, labels = data.pad_boxes(boxes[:0], np.zeros(0, np.int32), 2)
    assert not padded.any() and not labels.any()


BOX = [0.1, 0.2, 0.5, 0.9]


SHAPES = "an example must have boxes [n, 4], labels [n] and difficult [n]"
FRACTIONS = "boxes must be fractions of the image's sides, from 0 to 1"
PIXELS = "if these are pixels, divide by width, height, width, height"
SIZE = "boxes must have x_max > x_min and y_max > y_min inside the image"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.ones(1, np.int32)}, f"{SHAPES}; got [2, 4], [1] and [2]"),
        ({"labels": np.array([1, 0])}, "labels must be at least 1; got 0"),
        ({"labels": np.ones(2)}, "labels must be an array of integers; got float64"),
        ({"labels": [1, 1]}, "labels must be an array of integers; got list"),
        ({"difficult": np.zeros(2, int)}, "difficult must be an array of bool; got int64"),
        ({"boxes": [BOX, BOX]}, "boxes must be an array of numbers; got list"),
        ({"boxes": np.array([BOX, BOX], object)}, "boxes must be an array of numbers; got object"),
        ({"boxes": np.array([BOX, [5, 5, 25, 21]])}, f"{FRACTIONS}; got [5, 5, 25, 21]; {PIXELS}"),
        ({"boxes": np.array([BOX, [0.1, 0.2, np.nan, 0.9]])}, f"{FRACTIONS}; got [0.1, 0.2, nan, 0.9]"),
        ({"boxes": np.array([BOX, [0.1, 0.2, np.inf, 0.9]])}, f"{FRACTIONS}; got [0.1, 0.2, inf, 0.9]"),
        ({"boxes": np.array([BOX, [0.5, 0.2, 0.1, 0.9]])}, f"{SIZE}; got [0.5, 0.2, 0.1, 0.9]"),
        ({"boxes": np.array([BOX, [0.1, 0.2, 0.5, 0.2]])}, f"{SIZE}; got [0.1, 0.2, 0.5, 0.2]"),
        ({"boxes": np.array([BOX, [1.1, 0.2, 1.5, 0.4]])}, f"{SIZE}; got [1.1, 0.2, 1.5, 0.4]"),
        ({"image": "first.jpg"}, "image must be the bytes of a file, or an array; got str"),
    ],
)
def test_an_example_that_breaks_a_rule(changes, message):
    good = {"boxes": np.float32([BOX, BOX]), "labels": np.ones(2, np.int32), "difficult": np.zeros(2, bool)}
    with pytest.raises(ValueError, match=f"^x: {re.escape(message)}$"):
        Example("x", **{"image": b""} | good | changes)


def test_an_example_clips_boxes_as_the_readers_of_files_do():
    """Rounding is no error; what is further outside is one, with strict."""
    boxes = np.array([BOX, [-0.2, 0.2, 0.5, 1.00005], [0.3, 0.3, 1.00005, 0.4]])
    image = make_image(8, 8)
    clipped = Example("x", image, boxes, np.ones(3, np.int32), np.zeros(3, bool))
    np.testing.assert_array_equal(clipped.boxes, [BOX, [0, 0.2, 0.5, 1], [0.3, 0.3, 1, 0.4]])
    assert clipped.errors == ("box outside its image",)
    (batch,) = take(data.train_batches([clipped], **OPTIONS), 1)
    np.testing.assert_array_equal(batch.arrays["boxes"][0], np.float32(clipped.boxes))
    with pytest.raises(ValueError, match=r"^x: with strict, there must be no box outside its image"):
        next(data.train_batches([clipped], **OPTIONS, strict=True))
    inside = Example("x", image, boxes[[0, 2]], np.ones(2, np.int32), np.zeros(2, bool))
    assert next(data.train_batches([inside], **OPTIONS, strict=True)).info["readable"].all()


def test_an_example_without_objects_may_have_empty_arrays_of_any_kind():
    assert Example("x", b"", np.zeros((0, 4)), np.array([]), np.zeros(0, bool)).errors == ()


# -- training batches


def test_a_training_batch_holds_its_images():
    images = source(6)
    (batch,) = take(data.train_batches(images, **OPTIONS), 1)
    arrays, info = ({name: (array.shape, array.dtype.name) for name, array in part.items()} for part in batch)
    assert arrays == {
        "images": ((4, 32, 32, 3), "uint8"),
        "sizes": ((4, 2), "int32"),
        "boxes": ((4, 3, 4), "float32"),
        "labels": ((4, 3), "int32"),
        "position": ((4,), "int32"),
    }
    assert info == {
        "index": ((4,), "int32"),
        "readable": ((4,), "bool"),
        "size_differs": ((4,), "bool"),
        "dropped_boxes": ((4,), "int32"),
    }
    np.testing.assert_array_equal(batch.arrays["position"], range(4))
    assert batch.info["readable"].all()
    for row, index in enumerate(batch.info["index"]):
        image = data.shrink(images[index].image, 32)
        h, w, _ = image.shape
        boxes, labels = data.pad_boxes(images[index].boxes, images[index].labels, 3)
        np.testing.assert_array_equal(batch.arrays["images"][row, :h, :w], image)
        assert not batch.arrays["images"][row, h:].any() and not batch.arrays["images"][row, :, w:].any()
        np.testing.assert_array_equal(batch.arrays["sizes"][row], (h, w))
        np.testing.assert_array_equal(batch.arrays["boxes"][row], boxes)
        np.testing.assert_array_equal(batch.arrays["labels"][row], labels)


def test_every_epoch_is_another_permutation():
    batches = take(data.train_batches(source(6), **OPTIONS), 6)  # 4 epochs of 6 in 6 batches of 4
    epochs = np.concatenate([batch.info["index"] for batch in batches]).reshape(4, 6)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(6), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_seed_decides_the_order():
    def order(seed):
        return [b.info["index"].tolist() for b in take(data.train_batches(source(12), **OPTIONS | {"seed": seed}), 3)]

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("start", [1, 5, 1_000_000])
def test_resuming_needs_the_step_alone(start):
    expected = take(data.train_batches(source(7), **OPTIONS, start_step=start - 1), 4)[1:]
    assert_same(take(data.train_batches(source(7), **OPTIONS, start_step=start), 3), expected)


@pytest.mark.parametrize("cache_gb", [0, 4e-6, 1], ids=["no cache", "a cache of some", "a cache of all"])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 3])
def test_batches_follow_from_the_seed_and_the_step_alone(start, threads, processes, cache_gb):
    whole = take(data.train_batches(source(7), **OPTIONS, threads=0), start + 5)[start:]
    for process in range(processes):
        share = data.train_batches(
            source(7),
            **OPTIONS,
            start_step=start,
            threads=threads,
            cache_gb=cache_gb,
            process_index=process,
            process_count=processes,
        )
        expected = [
            Batch(*({name: array[process::processes] for name, array in part.items()} for part in batch))
            for batch in whole
        ]
        assert_same(take(share, 5), expected)


def test_reduced_decoding_keeps_sizes_boxes_and_the_order(caplog):
    random = np.random.default_rng(0)
    images = []
    for k, (height, width) in enumerate([(150, 200), (64, 90), (260, 300), (40, 50)]):
        smooth = cv2.resize(
            random.integers(0, 256, (4, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
        )
        images.append(example(f"p{k}", encode(smooth, ".jpg"), k, size=(height, width + (k == 2))))
    full, reduced = (
        take(data.train_batches(images, **OPTIONS, reduced_decoding=choice, threads=0), 5) for choice in (False, True)
    )
    for a, b in zip(map(everything, full), map(everything, reduced), strict=True):
        assert np.abs(a.pop("images").astype(int) - b.pop("images")).max() < 40
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert [int(batch.info["size_differs"].sum()) for batch in reduced] == [1] * 5
    assert "p2: the size in the annotation must be the image's, 300 x 260; got 301 x 260" in caplog.text
    resumed = take(data.train_batches(images, **OPTIONS, reduced_decoding=True, start_step=2, threads=3), 3)
    assert_same(resumed, reduced[2:])


# -- the cache


class Counted(list):
    """Counts how often each image is asked for."""

    def __init__(self, images):
        super().__init__(images)
        self.asked = Counter()

    def __getitem__(self, index):
        self.asked[index] += 1
        return super().__getitem__(index)


def test_a_cache_decodes_each_image_once(caplog):
    images = Counted(source(7))
    take(data.train_batches(images, **OPTIONS, cache_gb=1, threads=0), 7)
    assert images.asked == dict.fromkeys(range(7), 1)
    assert not caplog.records


def test_a_cache_holds_no_more_than_it_says(caplog):
    row = 20 * 30 * 3 + 2 * 4 + 3 * (4 + 1) * 4 + 4 + 4 + 1 + 1  # image, size, boxes and labels, four numbers
    images = Counted(example(f"p{i}", make_image(20, 30)) for i in range(7))
    take(data.train_batches(images, **OPTIONS, cache_gb=3 * row / 1e9, threads=0), 7)  # 4 epochs
    assert sorted(images.asked.values()) == [1, 1, 1, 4, 4, 4, 4]
    (record,) = caplog.records
    assert record.getMessage().endswith(": only 3 of 7 images fit; the others are decoded each time")


def test_a_batch_may_be_larger_than_the_source():
    (batch,) = take(data.train_batches(source(1), **OPTIONS), 1)
    np.testing.assert_array_equal(batch.info["index"], [0, 0, 0, 0])


def test_difficult_objects_are_trained_on_by_default():
    images = [example("a", make_image(8, 8), 3, [True, False, True])]
    (batch,) = take(data.train_batches(images, **OPTIONS), 1)
    np.testing.assert_array_equal(batch.arrays["labels"], [[1, 2, 3]] * 4)
    (batch,) = take(data.train_batches(images, **OPTIONS, train_difficult=False), 1)
    np.testing.assert_array_equal(batch.arrays["labels"], [[2, 0, 0]] * 4)
    np.testing.assert_array_equal(batch.arrays["boxes"][:, 0], [images[0].boxes[1]] * 4)


def test_objects_beyond_max_boxes_are_named_and_counted(caplog):
    images = [
        example("crowd", make_image(8, 8), 5),
        example("pair", make_image(8, 8), 2),
        example("four", make_image(8, 8), 4),
    ]
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        batches = take(data.train_batches(images, **OPTIONS), 5)
    for batch in batches:
        index = batch.info["index"]
        np.testing.assert_array_equal(batch.info["dropped_boxes"], np.array([2, 0, 1])[index])
        np.testing.assert_array_equal((batch.arrays["labels"] > 0).sum(axis=1), np.array([3, 2, 3])[index])
    *named, total = (r.getMessage() for r in caplog.records)
    assert sorted(named) == [
        "crowd: of 5 objects, the 2 smallest are dropped (max_boxes)",
        "four: of 4 objects, the 1 smallest are dropped (max_boxes)",
    ]
    assert total == "max_boxes = 3: 3 objects of 2 images were dropped, among the first 3 that this process read"


def test_the_total_comes_after_an_epoch_and_few_images_are_named(caplog):
    images = [example(f"p{i}", make_image(8, 8), 4 + i % 2) for i in range(30)]
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        take(data.train_batches(images, **OPTIONS), 7)
        assert len(caplog.records) == 10
        take(data.train_batches(images, **OPTIONS, process_index=1, process_count=2), 16)
    (total,) = (r.getMessage() for r in caplog.records if r.getMessage().startswith("max_boxes"))
    assert re.fullmatch(r"max_boxes = 3: \d+ objects of 1[5-7] images were dropped, among the first .*", total)


def test_strict_drops_no_object_and_no_image():
    with pytest.raises(ValueError, match=r"^crowd: with strict, objects must be at most max_boxes, 3; got 4$"):
        next(data.train_batches([example("crowd", make_image(8, 8), 4)], **OPTIONS, strict=True))
    unreadable = [example("cut", encode(make_image(20, 30))[:-300])]
    message = "^cut: with strict, every image must be readable; got: the file is cut short"
    with pytest.raises(ValueError, match=message):
        next(data.train_batches(unreadable, **OPTIONS, strict=True))
    with pytest.raises(ValueError, match=message):
        next(data.eval_batches(unreadable, batch_size=2, image_size=16, strict=True))
    assert next(data.train_batches(source(3), **OPTIONS, strict=True)).info["readable"].all()


def test_an_unreadable_image_is_grey_and_reported_once(caplog):
    class Source(list):
        def __getitem__(self, index):
            if index == 2:
                raise UnreadableImage("gone.jpg: No such file or directory")
            return super().__getitem__(index)

    jpeg = encode(make_image(20, 30))
    images = Source([example("fine", jpeg), example("cut", jpeg[:-300], 2), None])
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        batches = take(data.train_batches(images, **OPTIONS), 6)
    for batch in batches:
        np.testing.assert_array_equal(batch.info["readable"], batch.info["index"] == 0)
        bad = ~batch.info["readable"]
        assert (batch.arrays["images"][bad] == data.GREY).all() and (batch.arrays["sizes"][bad] == 32).all()
        assert not batch.arrays["boxes"][bad].any() and not batch.arrays["labels"][bad].any()
        assert (batch.arrays["labels"][~bad, 0] == 1).all()
    assert sorted(r.getMessage() for r in caplog.records) == [
        f"cut: the file is cut short (no end-of-image marker in its {len(jpeg) - 300} bytes)",
        "image 2: gone.jpg: No such file or directory",
    ]


def test_an_error_of_the_source_is_not_swallowed():
    class Source(list):
        def __getitem__(self, index):
            raise KeyError("the source's own mistake")

    with pytest.raises(KeyError, match="the source's own mistake"):
        next(data.train_batches(Source([1]), **OPTIONS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=4, process_count=3), "multiple of the number of processes; got 4 for 3"),
        (dict(batch_size=0), "got 0 for 1"),
        (dict(process_count=2, process_index=2), r"process_index must be in \[0, process_count\); got 2 of 2"),
        (dict(max_boxes=0), "^max_boxes must be at least 1; got 0$"),
        (dict(canvas_size=0), "^canvas_size must be at least 1; got 0$"),
        (dict(start_step=-1), "^start_step must be at least 0; got -1$"),
        (dict(threads=-1), "^threads must be at least 0; got -1$"),
        (dict(cache_gb=-1), "cache_gb must be at least 0; got -1"),
    ],
)
def test_train_batches_checks_its_options(options, message):
    with pytest.raises(ValueError, match=message):
        data.train_batches(source(3), **OPTIONS | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=0), "got 0 for 1$"),
        (dict(image_size=0), "^image_size must be at least 1; got 0$"),
        (dict(image_size=(16, 0)), "^image_size must be at least 1; got 0$"),
        (dict(max_boxes=-1), "^max_boxes must be at least 0; got -1$"),
        (dict(threads=-1), "^threads must be at least 0; got -1$"),
    ],
)
def test_eval_batches_checks_its_options(options, message):
    with pytest.raises(ValueError, match=message):
        data.eval_batches(source(3), **dict(batch_size=2, image_size=16) | options)


@pytest.mark.parametrize("name", ["batch_size", "canvas_size", "max_boxes"])
def test_train_batch_shapes_checks_its_options(name):
    with pytest.raises(ValueError, match=f"^{name} must be at least 1; got 0$"):
        train_batch_shapes(**dict(batch_size=4, canvas_size=32, max_boxes=3) | {name: 0})


def test_an_empty_source_is_an_error():
    with pytest.raises(ValueError, match="a source must have at least one image; this one is empty"):
        data.train_batches([], **OPTIONS)
    with pytest.raises(ValueError, match="this one is empty"):
        data.eval_batches([], batch_size=2, image_size=16)


# -- evaluation batches


@pytest.mark.parametrize("train_difficult", [True, False])
def test_evaluation_batches_have_the_ground_truth_if_asked(train_difficult):
    images = [
        example("a", np.zeros((9, 9, 3), np.uint8), 2, difficult=[True, False]),
        example("b", np.zeros((9, 9, 3), np.uint8), 1),
        example("c", np.zeros((9, 9, 3), np.uint8), 0),
    ]
    options = dict(batch_size=4, image_size=16, max_boxes=2, train_difficult=train_difficult)
    (batch,) = data.eval_batches(images, **options)
    first = images[0].boxes if train_difficult else [images[0].boxes[1], [0] * 4]
    np.testing.assert_array_equal(batch.arrays["boxes"][0], first)
    assert batch.arrays["labels"].tolist() == [[1, 2] if train_difficult else [2, 0], [1, 0], [0, 0], [0, 0]]
    assert batch.arrays["boxes"].dtype == np.float32 and batch.arrays["labels"].dtype == np.int32


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 7, 8])
def test_evaluation_sees_each_image_once(length, processes):
    images = source(length)
    shares = [
        list(data.eval_batches(images, batch_size=4, image_size=16, process_index=process, process_count=processes))
        for process in range(processes)
    ]
    assert {len(share) for share in shares} == {-(-length // 4)}
    assert {name for share in shares for batch in share for name in batch.arrays} == {"images"}
    names = ("index", "sizes", "readable", "examples")
    rows = [
        row
        for share in shares
        for batch in share
        for row in zip(batch.arrays["images"], *(batch.info[name] for name in names), strict=True)
    ]
    assert sorted(index for _, index, *_ in rows if index >= 0) == list(range(length))
    for image, index, size, readable, found in rows:
        assert image.shape == (16, 16, 3) and readable == (index >= 0) == (found is not None)
        if index >= 0:
            np.testing.assert_array_equal(image, data.warp(images[index].image, 16))
            np.testing.assert_array_equal(size, images[index].image.shape[:2])
            assert found.image_id == images[index].image_id and found.image == b""
            assert found.boxes is images[index].boxes and found.labels is images[index].labels


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_asks_for_each_image_once(threads):
    images = Counted(source(7))
    list(data.eval_batches(images, batch_size=4, image_size=16, threads=threads))
    assert images.asked == dict.fromkeys(range(7), 1)


def test_evaluation_marks_an_unreadable_image(caplog):
    class Source(list):
        def __getitem__(self, index):
            if index == 2:
                raise UnreadableImage("gone")
            return super().__getitem__(index)

    images = Source([example("a", make_image(8, 9)), example("b", b"what", 2), None])
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        (batch,) = data.eval_batches(images, batch_size=4, image_size=16)
    np.testing.assert_array_equal(batch.info["index"], [0, 1, 2, -1])
    np.testing.assert_array_equal(batch.info["readable"], [True, False, False, False])
    np.testing.assert_array_equal(batch.info["sizes"], [[8, 9], [0, 0], [0, 0], [0, 0]])
    named = [(e.image_id, len(e.boxes)) for e in batch.info["examples"][:3]]
    assert named == [("a", 1), ("b", 2), ("image 2", 0)] and batch.info["examples"][3] is None
    assert [r.getMessage() for r in caplog.records] == [
        "b: the file must be JPEG, PNG, BMP, GIF, PPM, TIFF, WebP; got one that begins with b'what'",
        "image 2: gone",
    ]


def test_the_shapes_of_a_batch_are_known_without_one():
    options = {name: OPTIONS[name] for name in ("batch_size", "canvas_size", "max_boxes")}
    (batch,) = take(data.train_batches(source(6), **OPTIONS), 1)
    shapes = train_batch_shapes(**options)
    assert {name: (a.shape, a.dtype) for name, a in shapes.items()} == {
        name: (a.shape, a.dtype) for name, a in batch.arrays.items()
    }
    assert all(array.strides == (0,) * array.ndim for array in shapes.values())  # takes no memory
