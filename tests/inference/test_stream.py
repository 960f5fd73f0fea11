"""The stream of images through a network, here a sum in NumPy."""

import itertools
import os
import queue
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from ssd_jax.inference.stream import Rows, Seen, _run_all, run_stream


def run(pixels):
    """Answer with one box a row, whose score is the first pixel of the row."""
    rows = len(pixels)
    return np.zeros((rows, 1, 4), np.float32), pixels[:, :1, 0, 0].astype(np.float32), np.ones((rows, 1), np.int32)


def read(index, item):
    """Make a gray image of a number; raise the item that is an error."""
    if isinstance(item, Exception):
        raise item
    return item if isinstance(item, np.ndarray) else np.full((2, 3, 3), item, np.uint8)


def stream(items, **options):
    defaults = {"read": read, "size": 2, "batch_size": 4, "prefetch": 2, "keep_images": False}
    return run_stream(options.pop("run", run), items, **defaults | options)


def scores(seen):
    return [float(found[1][0]) for found in seen.found]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 50])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_every_item_is_answered_in_its_order(count, batch_size):
    answers = list(stream(range(count), batch_size=batch_size))
    assert [seen.item for seen in answers] == list(range(count))
    assert [scores(seen) for seen in answers] == [[float(item)] for item in range(count)]
    assert all(seen.size == (2, 3) and seen.image is None for seen in answers)


def test_the_network_sees_only_rows_that_are_used():
    shapes = []

    def counting(pixels):
        shapes.append(pixels.shape)
        return run(pixels)

    list(stream(range(11), batch_size=6, run=counting))
    assert shapes == [(6, 2, 2, 3), (5, 2, 2, 3)]
    shapes.clear()
    list(stream(range(9), batch_size=6, run=counting))
    assert shapes == [(6, 2, 2, 3), (3, 2, 2, 3)]


def test_errors_stand_in_the_place_of_their_items():
    items = [OSError("first"), *range(5), ValueError("a"), TypeError("b"), 9, OSError("last")]
    answers = list(stream(items))
    assert [seen.item for seen in answers] == items
    assert [seen.error for seen in answers] == [item if isinstance(item, Exception) else None for item in items]
    assert scores(answers[8]) == [9.0]
    assert [str(seen.error) for seen in stream([OSError("alone")])] == ["alone"]


def test_what_the_iterator_raises_comes_after_the_items_before_it():
    def broken():
        yield from range(6)
        raise KeyError("the camera is gone")

    answers = stream(broken())
    assert [seen.item for seen in itertools.islice(answers, 6)] == list(range(6))
    with pytest.raises(KeyError, match="the camera is gone"):
        next(answers)


@pytest.mark.parametrize("prefetch", [1, 3])
def test_only_a_few_batches_are_read_ahead(prefetch):
    read_so_far = itertools.count()
    latest = 0

    def endless():
        nonlocal latest
        for latest in read_so_far:
            yield latest % 200

    for number, _ in enumerate(itertools.islice(stream(endless(), prefetch=prefetch), 200)):
        # Two batches are on the device, `prefetch` wait, one is being put there and one is being collected.
        assert latest < 4 * (number // 4 + prefetch + 4)


def test_an_answer_does_not_wait_for_the_next_item():
    asked, go_on = threading.Event(), threading.Event()

    def camera():
        yield from range(4)
        asked.set()
        assert go_on.wait(60)
        yield 4

    answers = stream(camera())
    assert [next(answers).item for _ in range(4)] == [0, 1, 2, 3]  # blocks for ever if it waits for the fifth
    assert asked.wait(60)
    go_on.set()
    assert [seen.item for seen in answers] == [4]


def test_the_device_has_its_next_batch_before_the_results_of_the_last_are_used():
    started = [threading.Event() for _ in range(3)]

    def noting(pixels):
        started[pixels[0, 0, 0, 0]].set()
        return run(pixels)

    batches = queue.Queue()
    for number in range(3):
        seen = Seen(number, windows=[(0, 0, 1, 1)])
        batches.put(Rows(np.full((1, 2, 2, 3), number, np.uint8), 1, [seen]))
    batches.put(None)
    answers = _run_all(noting, batches)
    assert next(answers).item == 0
    assert started[1].wait(60)  # while the first result is used
    assert not started[2].is_set()
    assert [seen.item for seen in answers] == [1, 2]


def test_what_the_network_raises_comes_after_the_answers_before_it():
    def failing(pixels):
        if pixels[0, 0, 0, 0] >= 8:
            raise RuntimeError("the device is lost")
        return run(pixels)

    answers = stream(range(20), run=failing)
    assert [next(answers).item for _ in range(8)] == list(range(8))
    with pytest.raises(RuntimeError, match="the device is lost"):
        next(answers)


def test_a_stream_that_is_left_reads_no_more():
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield number % 200

    answers = stream(endless())
    next(answers)
    answers.close()
    deadline = time.monotonic() + 60
    while any(thread.name == "stream" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "stream" for thread in threading.enumerate())
    assert len(taken) < 50


def test_a_stream_that_is_open_when_python_ends_says_nothing():
    code = (
        "import itertools, sys, test_stream\n"
        "answers = test_stream.stream(itertools.repeat(3))\n"
        "print(next(answers).item)\n"
        'sys.modules["threading"]._kept = answers'
    )
    paths = {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.getcwd()])}
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ | paths, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3\n", "")


def test_an_array_may_be_used_again_for_the_next_image():
    def frames():
        frame = np.zeros((2, 3, 3), np.uint8)
        for number in range(30):
            frame[:] = number
            yield frame

    assert [scores(seen) for seen in stream(frames())] == [[float(number)] for number in range(30)]


def test_windows_of_an_image_are_rows_of_their_own():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 2:4], image[:, 4:] = 50, 90
    windows = [(0, 0, 2, 4), (2, 0, 4, 4), (4, 0, 6, 4)]
    items = [image, ValueError("no image"), image, image + 1]
    answers = list(stream(items, split=lambda height, width: windows if (height, width) == (4, 6) else []))
    assert [scores(seen) for seen in answers] == [[0, 50, 90], [], [0, 50, 90], [1, 51, 91]]
    assert all(seen.windows == windows for seen in answers if not seen.error)


def test_images_are_kept_for_who_draws():
    image = cv2.resize(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), (9, 7))
    (seen,) = stream([image], keep_images=True)
    assert seen.image is image
