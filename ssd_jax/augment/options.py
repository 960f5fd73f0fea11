"""The parameters of the augmentation, with Caffe's values as defaults."""

import dataclasses
import math
from typing import Any

INTERPOLATIONS = ("linear", "area", "nearest", "cubic", "lanczos4")
"""The names that `AugmentOptions.interpolations` accepts; Caffe's configuration draws among all five."""


def _require(condition: Any, name: str, rule: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"AugmentOptions.{name} must be {rule}; got {value!r}")


def _cast(name: str, default: Any, value: Any) -> Any:
    """Convert `value` to the type of `default`: an int may stand for a float, a list for a tuple."""
    if isinstance(default, tuple):
        _require(isinstance(value, list | tuple), name, "a list or a tuple", value)
        return tuple(_cast(name, default[0], v) for v in value)
    if isinstance(default, float):
        _require(isinstance(value, int | float) and math.isfinite(value), name, "finite numbers", value)
        return float(value)
    _require(isinstance(value, type(default)), name, f"of type {type(default).__name__}", value)
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """Describe the training augmentation; the defaults are those of Caffe's `examples/ssd/ssd_pascal.py`.

    A probability of 0 removes a step from the compiled program. Options are hashable, so that they may be a static
    argument of `jax.jit`; lists, as configs give them, become tuples.

    Attributes:
      brightness_probability: chance to add one number in [-brightness_delta, brightness_delta] to every level.
      brightness_delta: levels, of 0..255.
      contrast_probability: chance to multiply every level by one number in `contrast_range`.
      contrast_range: (lowest, highest) factor.
      saturation_probability: chance to multiply the saturation (of HSV) by one number in `saturation_range`.
      saturation_range: (lowest, highest) factor.
      hue_probability: chance to add one number in [-hue_delta, hue_delta] to the hue (of HSV).
      hue_delta: in OpenCV's units of two degrees, so 18 is 36 degrees.
      expand_probability: chance to put the image at a random place of a larger canvas of the mean colour.
      expand_ratio: largest factor of the canvas' width and height.
      crop_min_ious: one sampler for each; it looks for a window whose IoU with an object is at least this. The
        whole image is one more sampler, which always succeeds; () leaves only that one.
      crop_scale: (lowest, highest) square root of a window's area, as a fraction of the expanded image.
      crop_aspect: (lowest, highest) width over height, both as fractions of the expanded image's sides.
      crop_trials: windows that each sampler tries.
      mirror_probability: chance to exchange left and right.
      interpolations: some of `INTERPOLATIONS`; each image draws one. ("linear",) is the fastest.

    Raises:
      ValueError: if a value is out of its range or of another type.
    """

    brightness_probability: float = 0.5
    brightness_delta: float = 32.0
    contrast_probability: float = 0.5
    contrast_range: tuple[float, float] = (0.5, 1.5)
    saturation_probability: float = 0.5
    saturation_range: tuple[float, float] = (0.5, 1.5)
    hue_probability: float = 0.5
    hue_delta: float = 18.0
    expand_probability: float = 0.5
    expand_ratio: float = 4.0
    crop_min_ious: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_aspect: tuple[float, float] = (0.5, 2.0)
    crop_trials: int = 50
    mirror_probability: float = 0.5
    interpolations: tuple[str, ...] = INTERPOLATIONS

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _cast(field.name, field.default, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if field.name.endswith("_probability"):
                _require(0 <= value <= 1, field.name, "between 0 and 1", value)
        for name in ("contrast_range", "saturation_range", "crop_scale", "crop_aspect"):
            value = getattr(self, name)
            _require(len(value) == 2 and 0 <= value[0] <= value[1], name, "(lowest, highest), 0 <= both", value)
        _require(0 <= self.brightness_delta <= 255, "brightness_delta", "between 0 and 255", self.brightness_delta)
        _require(0 <= self.hue_delta <= 90, "hue_delta", "between 0 and 90", self.hue_delta)
        _require(self.expand_ratio >= 1, "expand_ratio", "at least 1", self.expand_ratio)
        _require(all(0 <= v <= 1 for v in self.crop_min_ious), "crop_min_ious", "between 0 and 1", self.crop_min_ious)
        _require(self.crop_scale[0] > 0 and self.crop_scale[1] <= 1, "crop_scale", "in (0, 1]", self.crop_scale)
        _require(self.crop_aspect[0] > 0, "crop_aspect", "positive", self.crop_aspect)
        _require(self.crop_trials >= 1, "crop_trials", "at least 1", self.crop_trials)
        _require(
            self.interpolations and set(self.interpolations) <= set(INTERPOLATIONS),
            "interpolations",
            f"one or more of {INTERPOLATIONS}",
            self.interpolations,
        )


NO_AUGMENTATION = AugmentOptions(
    brightness_probability=0.0,
    contrast_probability=0.0,
    saturation_probability=0.0,
    hue_probability=0.0,
    expand_probability=0.0,
    crop_min_ious=(),
    mirror_probability=0.0,
    interpolations=("linear",),
)
"""No augmentation: only the linear resize to the network's size, as in evaluation."""
