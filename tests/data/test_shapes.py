import cv2
import numpy as np
import pytest

from ssd_jax import data
from ssd_jax.data import Shapes


def extent(mask):
    """Corners of the True pixels' outer edges, by looking at each row and column."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def same(a, b):
    return a.image_id == b.image_id and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("image", "boxes", "labels", "difficult")
    )


def test_an_example():
    source = Shapes(10, seed=3, image_size=64)
    assert source.class_names == ("circle", "cross", "square", "star", "triangle")
    assert len(source) == 10 and not source.inclusive
    for e in (source[i] for i in range(10)):
        n = len(e.labels)
        assert e.image.shape == (64, 64, 3) and e.image.dtype == np.uint8
        assert e.boxes.shape == (n, 4) and e.boxes.dtype == np.float32
        assert e.labels.dtype == np.int32 and e.difficult.shape == (n,) and not e.difficult.any()
    with pytest.raises(IndexError):
        source[10]


def test_an_image_follows_from_seed_and_place_alone():
    source = Shapes(50, seed=3)
    backwards = [source[i] for i in range(49, -1, -1)]
    assert all(same(a, b) for a, b in zip(reversed(backwards), Shapes(1000, seed=3), strict=False))
    assert same(source[-1], source[49])
    assert not any(same(source[i], Shapes(50, seed=4)[i]) for i in range(50))
    assert not same(source[0], source[1])


def test_the_mix():
    source = Shapes(1500, seed=0)
    examples = [source[i] for i in range(len(source))]
    counts = np.array([len(e.labels) for e in examples])
    assert 0.03 < np.mean(counts == 0) < 0.07 and counts.max() == 5
    labels = np.bincount(np.concatenate([e.labels for e in examples]))
    assert labels[0] == 0 and len(labels) == 6 and labels[1:].min() > 0.8 * labels[1:].max()
    boxes = np.concatenate([e.boxes for e in examples])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert np.percentile(sides, 5) < 0.17 and np.percentile(sides, 95) > 0.5


def test_a_lone_shapes_box_is_tight_around_its_vivid_pixels():
    source = Shapes(300, seed=1, max_objects=1, empty=0)
    for e in (source[i] for i in range(len(source))):
        vivid = np.ptp(e.image.astype(int), axis=2) > 100  # the ground's channels differ by less
        np.testing.assert_allclose(e.boxes[0] * 96, extent(vivid), atol=1.01)


def test_empty_images_have_nothing_vivid():
    source = Shapes(100, seed=2, empty=1)
    for e in (source[i] for i in range(len(source))):
        assert len(e.boxes) == 0
        assert np.ptp(e.image.astype(int), axis=2).max() < 100


@pytest.mark.parametrize("min_visible", [0.6, 1.0])
def test_every_drawn_shape_is_in_sight_and_boxed(monkeypatch, min_visible):
    """A slow oracle: each shape on a sheet of its own, the sheets laid one over another."""
    place, outlines = Shapes._place, []

    def spy(self, *args):
        outlines.append(place(self, *args))
        return outlines[-1]

    monkeypatch.setattr(Shapes, "_place", spy)
    source = Shapes(300, seed=5, min_visible=min_visible)
    left_out = covered = 0
    for i in range(len(source)):
        outlines.clear()
        e = source[i]
        sheets, sights = [], []
        for outline in outlines:
            sheet = cv2.fillPoly(np.zeros((96, 96), np.uint8), [outline], 1, shift=4) > 0
            rest = [sight & ~sheet for sight in sights]
            if all(r.sum() >= min_visible * s.sum() for r, s in zip(rest, sheets, strict=True)):
                sheets, sights = [*sheets, sheet], [*rest, sheet]
            else:
                left_out += 1
        expected = np.array([extent(sight) for sight in sights]).reshape(-1, 4)
        np.testing.assert_allclose(e.boxes * 96, expected, atol=1e-4)
        covered += sum(r.sum() < s.sum() for r, s in zip(sights, sheets, strict=True))
    assert left_out > 20
    assert covered > 50 if min_visible < 1 else covered == 0


def test_shapes_of_one_image_differ_in_colour():
    source = Shapes(50, seed=6, empty=0, sizes=(0.2, 0.3))
    for e in (source[i] for i in range(len(source))):
        centres = ((e.boxes[:, :2] + e.boxes[:, 2:]) * 48).astype(int)
        colours = [tuple(e.image[y, x]) for x, y in centres]
        assert len(set(colours)) == len(colours)


def test_wide_images():
    source = Shapes(200, seed=7, image_size=(45, 80), max_objects=1, empty=0, sizes=(0.2, 0.9))
    widths = []
    for e in (source[i] for i in range(len(source))):
        assert e.image.shape == (45, 80, 3)
        vivid = np.ptp(e.image.astype(int), axis=2) > 100
        np.testing.assert_allclose(e.boxes[0] * (80, 45, 80, 45), extent(vivid), atol=1.01)
        widths.append((e.boxes[0, 2] - e.boxes[0, 0]) * 80)
    boxes = np.concatenate([source[i].boxes for i in range(len(source))])
    assert boxes[:, 0].min() < 0.05 and boxes[:, 2].max() > 0.95
    assert np.max(widths) < 0.9 * 45 + 1.5  # a shape is as long as a part of the shorter side


def test_through_batches():
    source = Shapes(20, seed=0)
    options = dict(batch_size=8, canvas_size=96, max_boxes=source.max_objects, seed=0)
    batch = next(data.train_batches(source, **options))
    for row, index in enumerate(batch.info["index"]):
        e = source[int(index)]
        np.testing.assert_array_equal(batch.arrays["images"][row], e.image)
        np.testing.assert_array_equal(batch.arrays["boxes"][row, : len(e.boxes)], e.boxes)
        assert (batch.arrays["labels"][row] > 0).sum() == len(e.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(length=0), "length must be at least 1 and seed at least 0; got 0, 0"),
        (dict(seed=-1), "got 9, -1"),
        (dict(image_size=0), "image_size must be at least 8; got 0"),
        (dict(image_size=(96, 7)), r"image_size must be at least 8; got \(96, 7\)"),
        (dict(sizes=(0.05, 0.5)), r"at least 8 pixels and less than 1; got \(0.05, 0.5\) of 96 pixels"),
        (dict(sizes=(0.5, 0.2)), r"two rising fractions of the image.*got \(0.5, 0.2\)"),
        (dict(sizes=(0.5, 1.0)), r"got \(0.5, 1.0\)"),
        (dict(max_objects=0), "max_objects must be from 1 to 100; got 0"),
        (dict(min_visible=0), r"empty must be in \[0, 1\] and min_visible in \(0, 1\]; got 0.05, 0"),
        (dict(empty=1.5), "got 1.5, 0.6"),
    ],
)
def test_shapes_checks_its_options(options, message):
    with pytest.raises(ValueError, match=message):
        Shapes(**dict(length=9, seed=0) | options)
