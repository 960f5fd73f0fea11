"""From outputs to detections in pixels."""

import itertools
import pickle

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssd_jax import inference
from ssd_jax.box import center_to_corner
from ssd_jax.inference import Detections, Detector, draw, select

PROMOTION = "standard"  # Flax's BatchNorm promotes


def outputs(confident):
    """Offsets of zero, and logits that say background but for `{prior: (class, logit)}`."""
    logits = np.zeros((len(tiny.PRIORS), 3), np.float32)
    logits[:, 0] = 10
    for prior, (label, logit) in confident.items():
        logits[prior, label] = logit
    return jnp.zeros((len(tiny.PRIORS), 4)), jnp.asarray(logits)


def test_a_confident_prior_is_a_detection_at_its_clipped_box():
    boxes, scores, labels = select(*outputs({0: (2, 20.0), 200: (1, 15.0)}), tiny.PRIORS, max_detections=5)
    np.testing.assert_array_equal(labels, [2, 1, 0, 0, 0])
    expected = np.clip(center_to_corner(tiny.PRIORS[[0, 200]]), 0, 1)
    np.testing.assert_allclose(boxes[:2], expected, atol=1e-6)
    np.testing.assert_allclose(scores[0], 1 / (1 + np.exp(-10) + np.exp(-20)), rtol=1e-5)
    np.testing.assert_array_equal(scores[2:], 0)


def test_offsets_move_the_box_by_the_variances():
    offsets, logits = outputs({100: (1, 20.0)})
    offsets = offsets.at[100].set(jnp.array([1.0, 0.0, 0.0, 0.0]))
    boxes, _, _ = select(offsets, logits, tiny.PRIORS)
    cx, cy, w, h = tiny.PRIORS[100]
    np.testing.assert_allclose(boxes[0], center_to_corner(np.array([cx + 0.1 * w, cy, w, h])), atol=1e-6)


def test_detections_are_scaled_by_axis_and_have_no_padding():
    boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0, 0, 0, 0]], np.float32)
    found = Detections.from_model(boxes, np.array([0.9, 0], np.float32), np.array([3, 0], np.int32), (100, 200))
    np.testing.assert_allclose(found.boxes, [[20, 20, 100, 60]], rtol=1e-6)
    assert found.labels.tolist() == [3] and found.boxes.dtype == np.float32


def test_the_old_name_of_from_model_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match="to_pixels is now ssd_jax.inference.Detections.from_model"):
        assert inference.to_pixels == Detections.from_model
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = inference.nothing


@pytest.fixture(scope="module")
def detector():
    variables = jax.jit(tiny.MODEL.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return Detector(tiny.MODEL, variables, ("bright", "dark"), batch_size=4)


def test_images_of_any_size_as_arrays_or_paths_give_the_same(detector, tmp_path):
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (h, w, 3), dtype=np.uint8)
        for h, w in ((64, 64), (30, 90), (200, 50), (1, 7), (80, 80))
    ]
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image[:, :, ::-1])
    together = detector(images)
    assert len(together) == len(images)
    for image, found, alone, read in zip(
        images, together, map(lambda i: detector([i])[0], images), detector(paths), strict=True
    ):
        height, width = image.shape[:2]
        assert len(found.boxes)
        assert (found.boxes >= 0).all() and (found.boxes <= [width, height, width, height]).all()
        assert set(found.labels) <= {1, 2}
        assert (np.diff(found.scores) <= 0).all()
        np.testing.assert_allclose(alone.scores, found.scores, rtol=1e-4)
        for a, b in zip(found, read, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("cpu", "rows"), [(True, [1] * 8), (False, [1, 4, 4])])
def test_the_network_sees_images_one_by_one_on_a_cpu_and_padded_to_powers_of_two_elsewhere(
    detector, monkeypatch, cpu, rows
):
    monkeypatch.setattr("ssd_jax.parallel.is_cpu", lambda: cpu)
    shapes = []

    def counted(variables, batch, detect=detector._detect):
        shapes.append(len(batch))
        return detect(variables, batch)

    monkeypatch.setattr(detector, "_detect", counted)
    for count in (1, 3, 4):
        assert len(detector([np.zeros((8, 8, 3), np.uint8)] * count)) == count
    assert shapes == rows


def test_no_images_no_detections(detector):
    assert detector([]) == []


@pytest.mark.parametrize("single", [np.zeros((8, 8, 3), np.uint8), "image.jpg"])
def test_a_single_image_is_refused(detector, single):
    with pytest.raises(TypeError, match=r"must be a list of images; got a single one: write detector\(\[image\]\)"):
        detector(single)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3), np.float32), *(np.zeros(shape, np.uint8) for shape in ((8, 8), (8, 8, 4), (0, 5, 3)))],
)
def test_an_array_that_is_no_rgb_image_is_refused(detector, image):
    with pytest.raises(ValueError, match=r"must be uint8 RGB \[h, w, 3\]; got"):
        detector([image])


def test_something_that_is_no_image_is_named(detector, tmp_path):
    with pytest.raises(
        TypeError, match=r"^image 1 must be a NumPy array, uint8 RGB \[h, w, 3\], a path, .*; got None"
    ):
        detector([np.zeros((9, 9, 3), np.uint8), None])
    (tmp_path / "note.txt").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"note\.txt: the file must be JPEG, PNG, BMP, GIF, PPM, TIFF, WebP; got one that begins"
    ):
        detector([tmp_path / "note.txt"])


def test_images_may_come_from_a_generator_or_in_one_array(detector):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    for given in (images, (image for image in images)):
        answer = detector(given)
        assert isinstance(answer, list)
        for found, wanted in zip(answer, detector(list(images)), strict=True):
            np.testing.assert_array_equal(found.boxes, wanted.boxes)


def test_images_without_an_end_are_answered(detector):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    endless = (images[number % 3] for number in itertools.count())
    wanted = detector(images)
    for number, found in enumerate(itertools.islice(detector.stream(endless), 10)):
        np.testing.assert_allclose(found.scores, wanted[number % 3].scores, rtol=1e-4)


def test_an_image_that_cannot_be_read_is_an_error_in_its_place(detector, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    images = [image, tmp_path / "gone.png", image, np.zeros((4, 4), np.uint8), b"no image", image]
    answers = list(detector.stream(images, return_errors=True))
    found = [answer for answer in answers if isinstance(answer, Detections)]
    assert [isinstance(answer, Detections) for answer in answers] == [True, False, True, False, False, True]
    assert all((each.boxes == found[0].boxes).all() for each in found)
    assert "gone.png" in str(answers[1])
    assert str(answers[3]) == "image 3 must be uint8 RGB [h, w, 3]; got uint8 [4, 4]"
    assert str(answers[4]).startswith("image 4: the file must be JPEG, PNG")
    stream = detector.stream(images)
    assert len(next(stream).boxes) == len(found[0].boxes)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        next(stream)


def test_results_carry_their_items_and_images(detector):
    images = {name: np.full((9, 9 + k, 3), k, np.uint8) for k, name in enumerate("abc")}
    results = list(detector.results(images, read=lambda _, name: images[name], keep_images=True))
    assert [result.item for result in results] == ["a", "b", "c"]
    for result in results:
        assert result.image is images[result.item]
        assert result.found.class_names == ("bright", "dark")


@pytest.mark.parametrize("prefetch", [0, -1, True, 1.5])
def test_at_least_one_batch_is_decoded_ahead(detector, prefetch):
    with pytest.raises(ValueError, match="prefetch must be an integer of at least 1; got"):
        detector.stream([], prefetch=prefetch)


def test_a_detector_can_be_pickled(detector):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    options = {"step": 7, "batch_size": 3, "max_detections": 5}
    first = Detector(detector.model, detector.variables, detector.class_names, **options)
    second = pickle.loads(pickle.dumps(first))
    assert (second.class_names, second.step, second.batch_size) == (("bright", "dark"), 7, 3)
    (one,), (two,) = first([image]), second([image])
    assert len(one.boxes) == 5
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -1}, "batch_size must be an integer of at least 1; got -1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; got 0"),
        ({"batch_size": 2.0}, "batch_size must be an integer of at least 1; got 2.0"),
        ({"score_threshold": 50}, r"score_threshold must be a number in \[0, 1\]; got 50"),
        ({"score_threshold": "0.5"}, r"score_threshold must be a number in \[0, 1\]; got '0.5'"),
        ({"iou_threshold": float("nan")}, r"iou_threshold must be a number in \[0, 1\]; got nan"),
        ({"iou_threshold": -0.1}, r"iou_threshold must be a number in \[0, 1\]; got -0.1"),
        ({"max_detections": 0}, "max_detections must be an integer of at least 1; got 0"),
        ({"max_candidates": 400.0}, "max_candidates must be an integer of at least 1; got 400.0"),
        ({"max_candidates": True}, "max_candidates must be an integer of at least 1; got True"),
        ({"score_treshold": 0.5}, "an option must be one of score_threshold, .*; got 'score_treshold'"),
    ],
)
def test_a_wrong_option_is_refused_when_the_detector_is_made(detector, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Detector(detector.model, detector.variables, ("bright", "dark"), **options)


def test_options_may_be_numbers_of_numpy_and_the_ends_of_their_range(detector):
    options = {"score_threshold": np.float32(0), "iou_threshold": 1, "max_detections": np.int64(3)}
    found = Detector(detector.model, detector.variables, ("bright", "dark"), **options)(
        [np.zeros((9, 9, 3), np.uint8)]
    )
    assert len(found[0].boxes) == 3


def test_class_names_are_as_many_as_the_classes_of_the_model(detector):
    with pytest.raises(ValueError, match="class_names must be 2 names; got 3"):
        Detector(detector.model, detector.variables, ("bright", "dark", "grey"))


def test_drawing_leaves_the_image_alone_and_marks_the_box():
    image = np.full((500, 600, 3), 90, np.uint8)
    found = Detections(np.array([[100.0, 200, 300, 400]]), np.array([0.75]), np.array([2]))
    drawing = draw(image, found, ("cat", "dog"))
    assert (image == 90).all()
    assert drawing.shape == image.shape
    changed = np.argwhere((drawing != 90).any(axis=2))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    np.testing.assert_allclose([left, right, bottom], [100, 300, 400], atol=2)
    assert top < 200  # the label stands above the box


@pytest.mark.parametrize("name", ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{SNOWMAN}", "\udcff", "a\nb", ""])
def test_a_class_name_of_any_characters_can_be_drawn(name):
    found = Detections(np.array([[100.0, 200, 300, 400]]), np.array([0.75]), np.array([1]))
    assert draw(np.full((500, 600, 3), 90, np.uint8), found, (name,)).shape == (500, 600, 3)


def test_a_small_image_is_enlarged_for_its_labels():
    found = Detections(np.array([[1.0, 1, 9, 9]]), np.array([0.5]), np.array([1]))
    assert draw(np.zeros((10, 20, 3), np.uint8), found, ("cat",), smallest_side=400).shape == (400, 800, 3)


def test_a_very_wide_image_is_not_enlarged_beyond_measure():
    found = Detections(np.array([[1.0, 0, 9, 2]]), np.array([0.5]), np.array([1]))
    assert draw(np.zeros((2, 6000, 3), np.uint8), found, ("cat",)).shape == (2, 6000, 3)
    assert draw(np.zeros((10, 400, 3), np.uint8), found, ("cat",)).shape == (40, 1600, 3)
