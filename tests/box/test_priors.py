import dataclasses
import json

import numpy as np
import pytest

from ssd_jax import box

SPECS = {
    "SSD300_VOC": box.SSD300_VOC,
    "SSD300_COCO": box.SSD300_COCO,
    "SSD512_VOC": box.SSD512_VOC,
    "SSD512_COCO": box.SSD512_COCO,
}
# The layers that lead to each map of the networks on ResNet-101: kernel, stride, padding. Dilation moves no centre.
TO_RES3 = [(7, 2, 3), (3, 2, 0), (1, 2, 0)]  # conv1, pool1, and the 1x1 convolution that halves stage 3
TO_RES5 = [*TO_RES3, (1, 2, 0)]  # and stage 4; stage 5 has stride 1
HALVED = [TO_RES5 + [(2, 2, 0)] * n for n in range(5)]
RECEPTIVE_FIELDS = {
    "SSD321_VOC": [TO_RES3, *HALVED[:3], [*HALVED[2], (3, 1, 0)]],
    "SSD513_VOC": [TO_RES3, *HALVED],
}


# Sums of (x_min, y_min, x_max, y_max) by the formula of Caffe's prior_box_layer.cpp, which truncates sizes.
@pytest.mark.parametrize(
    ("name", "count", "low", "high"),
    [
        ("SSD300_VOC", 8732, 3688.732, 5199.1613),
        ("SSD300_COCO", 8732, 3857.8476, 5030.0457),
        ("SSD512_VOC", 24564, 10729.2228, 13834.7772),
        ("SSD512_COCO", 24564, 11195.159, 13368.841),
    ],
)
def test_priors_sum_to_the_numbers_of_caffes_formula(name, count, low, high):
    priors = box.make_priors(dataclasses.replace(SPECS[name], truncate=True))
    assert priors.shape == (count, 4)
    assert priors.dtype == np.float32
    corners = box.center_to_corner(priors.astype(np.float64))
    np.testing.assert_allclose(corners.sum(axis=0), [low, low, high, high], atol=2e-3)


def test_first_and_last_priors_of_ssd300_are_caffes():
    corners = box.center_to_corner(box.make_priors(box.SSD300_VOC))
    np.testing.assert_allclose(
        corners[[0, 1, 2, 3, -1]],
        [
            [-0.036667, -0.036667, 0.063333, 0.063333],
            [-0.057377, -0.057377, 0.084044, 0.084044],
            [-0.057377, -0.022022, 0.084044, 0.048689],
            [-0.022022, -0.057377, 0.048689, 0.084044],
            [0.188873, -0.122254, 0.811127, 1.122254],
        ],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("spec", "pixels"),
    [
        # torchvision's test of its DefaultBoxGenerator: one cell of a 15 x 15 image.
        (
            box.PriorSpec(15, (1,), (15,), (2.25, 13.5), ((2.0,),)),
            [
                [6.375, 6.375, 8.625, 8.625],
                [4.7443, 4.7443, 10.2557, 10.2557],
                [5.9090, 6.7045, 9.0910, 8.2955],
                [6.7045, 5.9090, 8.2955, 9.0910],
            ],
        ),
        # mmdetection's SSD300 COCO base anchors of the first map, centred on the first cell.
        (
            box.SSD300_COCO,
            [
                [-6.5, -6.5, 14.5, 14.5],
                [-11.3704, -11.3704, 19.3704, 19.3704],
                [-10.8492, -3.4246, 18.8492, 11.4246],
                [-3.4246, -10.8492, 11.4246, 18.8492],
            ],
        ),
    ],
    ids=["torchvision", "mmdetection"],
)
def test_first_cell_is_that_of_other_implementations(spec, pixels):
    first = box.center_to_corner(box.make_priors(spec)[:4]) * spec.image_size
    np.testing.assert_allclose(first, pixels, atol=6e-5)


def test_order_is_map_row_column_shape():
    spec = box.PriorSpec(8, (2, 1), (4, 8), (1, 4, 9), ((), (4.0,)))
    assert spec.per_cell == (2, 4)
    np.testing.assert_allclose(
        box.make_priors(spec) * 8,
        [
            [2, 2, 1, 1],
            [2, 2, 2, 2],
            [6, 2, 1, 1],
            [6, 2, 2, 2],
            [2, 6, 1, 1],
            [2, 6, 2, 2],
            [6, 6, 1, 1],
            [6, 6, 2, 2],
            [4, 4, 4, 4],
            [4, 4, 6, 6],
            [4, 4, 8, 2],
            [4, 4, 2, 8],
        ],
    )


@pytest.mark.parametrize("name", SPECS)
def test_per_cell_counts_the_priors(name):
    spec = SPECS[name]
    maps = zip(spec.grids, spec.per_cell, strict=True)
    assert sum(grid**2 * boxes for grid, boxes in maps) == len(box.make_priors(spec))
    assert spec.per_cell[0] == 4 and spec.per_cell[1] == 6


@pytest.mark.parametrize("name", ["SSD300_VOC", "SSD300_COCO"])
def test_truncation_changes_nothing_at_300(name):
    spec = SPECS[name]
    np.testing.assert_array_equal(box.make_priors(spec), box.make_priors(dataclasses.replace(spec, truncate=True)))


def test_truncation_at_512_moves_boxes_by_little():
    exact = box.center_to_corner(box.make_priors(box.SSD512_VOC))
    truncated = box.center_to_corner(box.make_priors(dataclasses.replace(box.SSD512_VOC, truncate=True)))
    assert np.sum(np.any(np.abs(exact - truncated) > 1e-7, axis=1)) == 24552
    assert box.paired_iou(exact, truncated).min() == pytest.approx(0.954, abs=5e-4)


def test_clip_cuts_corners_not_centres():
    priors = box.make_priors(box.SSD300_VOC)
    clipped = box.make_priors(dataclasses.replace(box.SSD300_VOC, clip=True))
    np.testing.assert_allclose(box.center_to_corner(clipped), box.clip(box.center_to_corner(priors)), atol=1e-7)
    assert np.sum(np.any(np.abs(priors - clipped) > 1e-6, axis=1)) == 2869


@pytest.mark.parametrize(("name", "moved"), [("SSD300_VOC", 114), ("SSD300_COCO", 114), ("SSD512_VOC", 0)])
def test_clamped_centres_are_those_of_ssd_pytorch(name, moved):
    spec = SPECS[name]
    rows = []  # as in its loop, the centre of cell (i, j) is (j + 0.5) / (image / step), clipped to 0..1
    for grid, step, boxes in zip(spec.grids, spec.steps, spec.per_cell, strict=True):
        for i, j in np.ndindex(grid, grid):
            rows += [[(x + 0.5) / (spec.image_size / step) for x in (j, i)]] * boxes
    priors, clamped = (box.make_priors(dataclasses.replace(spec, clamp_centers=c)) for c in (False, True))
    np.testing.assert_allclose(clamped[:, :2], np.clip(rows, 0, 1), atol=1e-7)
    np.testing.assert_array_equal(clamped[:, 2:], priors[:, 2:])
    assert np.sum(np.any(clamped != priors, axis=1)) == moved
    assert np.max(priors - clamped) == pytest.approx(4 / 300 if moved else 0)


@pytest.mark.parametrize(
    ("name", "count", "sizes"),
    [
        ("SSD321_VOC", 17080, (32, 64, 121, 179, 237, 295, 353)),
        ("SSD321_COCO", 17080, (22, 48, 112, 176, 240, 304, 369)),
        ("SSD513_VOC", 43688, (35, 76, 159, 241, 323, 405, 487, 569)),
        ("SSD513_COCO", 43688, (20, 51, 138, 225, 312, 400, 487, 574)),
    ],
)
def test_priors_of_resnet101(name, count, sizes):
    spec = getattr(box, name)
    priors = box.make_priors(spec) * spec.image_size
    assert len(priors) == count
    first = 0
    for k, grid in enumerate(spec.grids):
        small, large = sizes[k], (sizes[k] * sizes[k + 1]) ** 0.5
        expected = [(small, small), (large, large)]
        for root in (ratio**0.5 for ratio in (1.6, 2, 3)):
            expected += [(small * root, small / root), (small / root, small * root)]
        np.testing.assert_allclose(priors[first : first + 8, 2:], expected, rtol=1e-5)
        first += 8 * grid**2


@pytest.mark.parametrize("name", RECEPTIVE_FIELDS)
def test_centres_of_resnet101_are_those_of_receptive_fields(name):
    spec = getattr(box, name)
    centres = box.make_priors(spec)[:, :2] * spec.image_size
    firsts = np.cumsum([0, *(8 * grid**2 for grid in spec.grids)])
    for k, layers in enumerate(RECEPTIVE_FIELDS[name]):
        centre, step = 0.5, 1  # of the first pixel, in pixels of the image, and the distance of two
        for kernel, stride, padding in layers:
            centre += step * ((kernel - 1) / 2 - padding)
            step *= stride
        np.testing.assert_allclose(centres[firsts[k]], [centre, centre], atol=1e-4)
        np.testing.assert_allclose(centres[firsts[k] + 8], [centre + step, centre], atol=1e-4)
    np.testing.assert_allclose(centres[-1], [spec.image_size / 2] * 2, rtol=1e-6)  # the last map has one cell


def test_a_rectangular_input_has_square_boxes_of_pixels():
    spec = box.PriorSpec((20, 40), ((2, 4), (1, 2)), (10, (20, 20)), (5, 10, 15), ((), (4.0,)))
    assert spec.input_sides == (20, 40) and spec.map_sides == ((2, 4), (1, 2)) and spec.per_cell == (2, 4)
    assert spec.mean_side == pytest.approx(800**0.5)
    assert spec.steps == (10, 20) and box.PriorSpec((8, 8), (2,), (4,), (1, 2), ((),)).image_size == 8
    expected = [(x, y, s, s) for y in (5, 15) for x in (5, 15, 25, 35) for s in (5, 50**0.5)]
    expected += [(x, 10, *shape) for x in (10, 30) for shape in ((10, 10), (150**0.5,) * 2, (20, 5), (5, 20))]
    np.testing.assert_allclose(box.make_priors(spec) * (40, 20, 40, 20), expected, rtol=1e-6)
    assert box.PriorSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


def test_a_square_of_a_rectangular_input_has_the_priors_of_the_square():
    grids = tuple((grid, 2 * grid) for grid in box.SSD512_VOC.grids)
    wide = box.make_priors(dataclasses.replace(box.SSD512_VOC, image_size=(512, 1024), grids=grids)) * (2, 1, 2, 1)
    np.testing.assert_allclose(wide[wide[:, 0] < 1], box.make_priors(box.SSD512_VOC), atol=1e-6)


def test_explicit_shapes_and_an_offset_for_each_map():
    # As in a face detector: squares of 10, 16 and 24 pixels on one map, larger ones on the next.
    shapes = ((10, 10), (16, 16), (24, 24)), ((32, 32), (48, 40.5))
    spec = box.PriorSpec(64, (2, 1), (32, 64), offset=(0.25, 0.5), shapes=shapes)
    assert spec.per_cell == (3, 2)
    expected = [(x, y, s, s) for y in (8, 40) for x in (8, 40) for s in (10, 16, 24)]
    expected += [(32, 32, 32, 32), (32, 32, 48, 40.5)]
    np.testing.assert_allclose(box.make_priors(spec) * 64, expected, rtol=1e-6)
    truncated = box.make_priors(dataclasses.replace(spec, truncate=True)) * 64
    np.testing.assert_allclose(truncated[-1], (32, 32, 48, 40))
    assert box.PriorSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


def test_retina_spec_has_the_papers_nine_anchors_on_receptive_fields():
    spec = box.retina_spec(640)
    priors = box.make_priors(spec) * 640
    assert spec.grids == (80, 40, 20, 10, 5) and len(priors) == 9 * (80**2 + 40**2 + 20**2 + 10**2 + 5**2)
    start = 0
    for step, size in zip((8, 16, 32, 64, 128), (32, 64, 128, 256, 512), strict=True):
        cells = (640 // step) ** 2
        boxes = priors[start : start + 9 * cells].reshape(cells, 9, 4)
        start += 9 * cells
        np.testing.assert_allclose(boxes[1, :, :2], np.tile([step, 0], (9, 1)), atol=1e-3)
        w, h = boxes[0, :, 2:].T
        # "Anchors have areas of 32^2 to 512^2", times 2^0, 2^(1/3), 2^(2/3) a side, at ratios 1:2, 1:1, 2:1.
        wanted = [size * 2 ** (k / 3) for k in range(3)] * 3
        np.testing.assert_allclose(np.sqrt(w * h), wanted, atol=2)
        np.testing.assert_allclose(h / w, np.repeat([0.5, 1, 2], 3), rtol=0.07)
        assert np.all(np.abs(w / 2 - np.rint(w / 2)) < 1e-3)


def test_retina_spec_of_sides_that_its_strides_do_not_divide():
    spec = box.retina_spec((180, 320), smallest=20, maps=4)
    assert spec.map_sides == ((23, 40), (12, 20), (6, 10), (3, 5)) and spec.image_size == (180, 320)
    assert spec.shapes[0][3:6] == ((20, 20), (24, 24), (32, 32))  # 25 and 31 rounded to even sides
    assert spec.shapes[1][3] == (40, 40)


def test_linear_spec_of_a_rectangle_has_the_sizes_of_the_square_of_its_area():
    wide = box.linear_spec((100, 400), [(25, 100), (13, 50), (7, 25)])
    assert wide.sizes == pytest.approx(box.linear_spec(200, (50, 25, 13)).sizes)
    assert wide.steps == (4, (100 / 13, 8), (100 / 7, 16))


def test_linear_spec_is_the_papers_formula():
    spec = box.linear_spec(300, (38, 19, 10, 5, 3, 1))
    np.testing.assert_allclose(np.array(spec.sizes) / 300, [0.2, 0.34, 0.48, 0.62, 0.76, 0.9, 1.04])
    assert spec.ratios == box.SSD300_VOC.ratios
    assert spec.steps == pytest.approx((300 / 38, 300 / 19, 30, 60, 100, 300))


def test_linear_spec_with_the_papers_extra_first_scale():
    spec = box.linear_spec(448, (56, 28, 14, 7, 4, 2), first=0.1)
    np.testing.assert_allclose(np.array(spec.sizes) / 448, [0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075])
    assert len(box.make_priors(spec)) == 4 * 56**2 + 6 * (28**2 + 14**2 + 7**2) + 4 * (4**2 + 2**2)


def test_a_spec_that_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match=r"PriorSpec.sizes must have 3 entries for 2 maps; got \(1, 2\)"):
        box.PriorSpec(8, (2, 1), (4, 8), (1, 2), ((), ()))
    with pytest.raises(ValueError, match=r"must be positive; got PriorSpec\(image_size=8, grids=\(0,\)"):
        box.PriorSpec(8, (0,), (4,), (1, 2), ((),))
    with pytest.raises(ValueError, match=r"PriorSpec.offset must have 2 entries for 2 maps; got \(0.5,\)"):
        box.PriorSpec(8, (2, 1), (4, 8), (1, 2, 3), ((), ()), offset=(0.5,))
    with pytest.raises(ValueError, match="either shapes or sizes and ratios"):
        box.PriorSpec(8, (1,), (8,), (1, 2), ((),), shapes=(((1, 1),),))
    with pytest.raises(ValueError, match=r"PriorSpec.shapes must have \(width, height\) pairs .*; got \(\(1, 2\),\)"):
        box.PriorSpec(8, (1,), (8,), shapes=((1, 2),))
    with pytest.raises(ValueError, match=r"PriorSpec.grids must be a number or a pair .*; got \(1, 2, 3\)"):
        box.PriorSpec(8, ((1, 2, 3),), (8,), (1, 2), ((),))
    with pytest.raises(ValueError, match=r"grids must have two maps or more .*; got \(9, 1\) and first 0.1"):
        box.linear_spec(300, (9, 1), first=0.1)


def test_lists_as_json_and_configs_give_them_are_the_same_spec():
    for name, spec in SPECS.items():
        stored = json.loads(json.dumps(dataclasses.asdict(spec)))
        assert isinstance(stored["ratios"][0], list), name
        restored = box.PriorSpec(**stored)
        assert restored == spec
        assert hash(restored) == hash(spec)
    assert box.linear_spec(300, [38, 19, 10], ratios=[[2.0]] * 3).ratios == ((2.0,),) * 3
