"""Small objects in large images."""

import itertools

import numpy as np
import pytest
import tiny
from bright import Bright

from ssd_jax.inference import Detections
from ssd_jax.inference.tiles import merge_windows, tile_windows

SIDE = 12  # of the objects


@pytest.mark.parametrize(("height", "width"), [(100, 100), (100, 37), (41, 250), (333, 96), (97, 96)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_tiles_cover_every_pixel_and_overlap(height, width, overlap):
    whole, *tiles = tile_windows(height, width, tile=96, overlap=overlap)
    assert whole == (0, 0, width, height)
    covered = np.zeros((height, width), int)
    for x0, y0, x1, y1 in tiles:
        assert (x1 - x0, y1 - y0) == (min(96, width), min(96, height))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1 and covered.shape == (height, width)
    for axis in (0, 1):
        starts = sorted({window[axis] for window in tiles})
        # Even spacing is rounded to pixels.
        assert all(96 - (b - a) >= 96 * overlap - 1 for a, b in itertools.pairwise(starts))


def test_an_image_that_fits_in_a_tile_is_looked_at_once():
    assert tile_windows(96, 50, tile=96, overlap=0.2) == [(0, 0, 50, 96)]


def found(*rows):
    """Make detections of rows (x, y, score, label) with sides of 10."""
    table = np.array(rows, np.float32).reshape(-1, 4)
    boxes = np.concatenate([table[:, :2], table[:, :2] + 10], axis=1)
    return Detections(boxes, table[:, 2], table[:, 3].astype(np.int32), ("a", "b"))


def test_what_two_tiles_found_is_one_detection():
    windows = [(0, 0, 100, 100), (0, 0, 60, 60), (40, 0, 100, 60)]
    merged = merge_windows(
        windows,
        [found((45, 20, 0.5, 1)), found((45, 20, 0.7, 1), (0, 0, 0.2, 1)), found((5, 21, 0.9, 1), (5, 20, 0.8, 2))],
        iou_threshold=0.45,
    )
    np.testing.assert_array_equal(merged.boxes, [[45, 21, 55, 31], [45, 20, 55, 30], [0, 0, 10, 10]])
    np.testing.assert_allclose(merged.scores, [0.9, 0.8, 0.2])
    assert merged.labels.tolist() == [1, 2, 1] and merged.class_names == ("a", "b")
    nothing = merge_windows(windows[:2], [found(), found()], iou_threshold=0.45)
    assert nothing.boxes.shape == (0, 4) and nothing.labels.dtype == np.int32


def test_tiles_find_objects_that_are_too_small_in_the_whole_image():
    image = np.zeros((320, 480, 3), np.uint8)
    corners = np.array([[10, 15], [300, 40], [60, 250], [460, 300], [200, 130]])
    for x, y in corners:
        image[y : y + SIDE, x : x + SIDE] = 255
    detector = Bright()
    (whole,), (tiled,) = detector([image]), detector([image], tile=64, overlap=0.25)
    for box in np.concatenate([corners, corners + SIDE], axis=1):  # each is found, to a pixel
        assert (np.abs(tiled.boxes - box).max(axis=1) <= 1).any(), box
        assert not (np.abs(whole.boxes - box).max(axis=1) <= 1).any(), box


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, r"tile must be an integer of at least 8 \(pixels\); got 0"),
        ({"tile": 300.0}, r"tile must be an integer of at least 8 \(pixels\); got 300.0"),
        ({"tile": 300, "overlap": 1}, r"overlap must be a number in \[0, 0.9\]; got 1"),
        ({"overlap": float("nan")}, r"overlap must be a number in \[0, 0.9\]; got nan"),
    ],
)
def test_wrong_tiles_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Bright()([tiny.Images()[0].image], **options)
