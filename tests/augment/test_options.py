import dataclasses

import pytest

from ssd_jax.augment import INTERPOLATIONS, NO_AUGMENTATION, AugmentOptions


def test_defaults_are_caffes():
    assert dataclasses.asdict(AugmentOptions()) == {
        "brightness_probability": 0.5,
        "brightness_delta": 32.0,
        "contrast_probability": 0.5,
        "contrast_range": (0.5, 1.5),
        "saturation_probability": 0.5,
        "saturation_range": (0.5, 1.5),
        "hue_probability": 0.5,
        "hue_delta": 18.0,
        "expand_probability": 0.5,
        "expand_ratio": 4.0,
        "crop_min_ious": (0.1, 0.3, 0.5, 0.7, 0.9, 0.0),
        "crop_scale": (0.3, 1.0),
        "crop_aspect": (0.5, 2.0),
        "crop_trials": 50,
        "mirror_probability": 0.5,
        "interpolations": ("linear", "area", "nearest", "cubic", "lanczos4"),
    }


def test_a_configurations_lists_and_ints_are_cast_and_hashable():
    options = AugmentOptions(**{"crop_min_ious": [], "expand_ratio": 2, "interpolations": ["linear"]})
    assert options == AugmentOptions(crop_min_ious=(), expand_ratio=2.0, interpolations=("linear",))
    assert hash(options) == hash(dataclasses.replace(options))
    assert isinstance(options.expand_ratio, float)


def test_no_augmentation_leaves_nothing_random():
    names = [f.name for f in dataclasses.fields(AugmentOptions) if f.name.endswith("_probability")]
    assert len(names) == 6
    assert all(getattr(NO_AUGMENTATION, name) == 0 for name in names)
    assert NO_AUGMENTATION.crop_min_ious == ()
    assert NO_AUGMENTATION.interpolations == ("linear",)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hue_probability", 1.5, "must be between 0 and 1; got 1.5"),
        ("mirror_probability", float("nan"), "must be finite numbers; got nan"),
        ("mirror_probability", "0.5", "must be finite numbers; got '0.5'"),
        ("brightness_delta", -1, "must be between 0 and 255; got -1.0"),
        ("hue_delta", 180, "must be between 0 and 90; got 180.0"),
        ("contrast_range", (1.5, 0.5), r"must be \(lowest, highest\), 0 <= both; got \(1.5, 0.5\)"),
        ("saturation_range", (1.0,), r"must be \(lowest, highest\), 0 <= both; got \(1.0,\)"),
        ("saturation_range", 1.0, "must be a list or a tuple; got 1.0"),
        ("expand_ratio", 0.5, "must be at least 1; got 0.5"),
        ("crop_min_ious", (0.1, 1.1), r"must be between 0 and 1; got \(0.1, 1.1\)"),
        ("crop_scale", (0.0, 1.0), r"must be in \(0, 1\]; got \(0.0, 1.0\)"),
        ("crop_scale", (0.3, 1.2), r"must be in \(0, 1\]; got \(0.3, 1.2\)"),
        ("crop_aspect", (0.0, 2.0), r"must be positive; got \(0.0, 2.0\)"),
        ("crop_trials", 0, "must be at least 1; got 0"),
        ("crop_trials", 2.5, "must be of type int; got 2.5"),
        ("interpolations", (), r"must be one or more of .*; got \(\)"),
        ("interpolations", ("linear", "bicubic"), "must be one or more of .*linear.*; got .*bicubic.*"),
        ("interpolations", "linear", "must be a list or a tuple; got 'linear'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value, message):
    with pytest.raises(ValueError, match=rf"^AugmentOptions\.{name} {message}$"):
        AugmentOptions(**{name: value})


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'zoom'"):
        AugmentOptions(zoom=2)


def test_by_default_every_interpolation_is_drawn():
    assert set(AugmentOptions().interpolations) == set(INTERPOLATIONS)
