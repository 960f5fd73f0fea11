"""Random brightness, contrast, saturation and hue of one image, on the scale 0..255.

Caffe stores the image as uint8: it rounds levels to integers after each step, and hue to two degrees. Here levels are
clipped to 0..255 after each step as in Caffe, but not rounded.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssd_jax.augment.options import AugmentOptions

Planes = Sequence[jax.Array]  # red, green and blue, float32 of one shape, levels 0..255


def distort(key: jax.Array, rgb: Planes, *, options: AugmentOptions) -> Planes:
    """Change the colours as Caffe's `ApplyDistort` does.

    Brightness comes first; contrast comes before or after saturation and hue, each half of the time.

    Args:
      key: a JAX random key.
      rgb: three float32 planes of one shape, levels 0..255.
      options: the steps and their parameters.

    Returns:
      Three float32 planes, levels 0..255.
    """
    chance, amount = jax.random.uniform(key, (2, 5))

    def drawn(i: int, probability: float, lowest: float, highest: float, neutral: float) -> jax.Array:
        return jnp.where(chance[i] < probability, lowest + amount[i] * (highest - lowest), neutral)

    delta, degrees = options.brightness_delta, 2 * options.hue_delta
    brightness = drawn(0, options.brightness_probability, -delta, delta, 0.0)
    contrast = drawn(1, options.contrast_probability, *options.contrast_range, 1.0)
    saturation = drawn(2, options.saturation_probability, *options.saturation_range, 1.0)
    hue = drawn(3, options.hue_probability, -degrees, degrees, 0.0)
    contrast_first = chance[4] < 0.5

    if options.brightness_probability:
        rgb = [jnp.clip(x + brightness, 0, 255) for x in rgb]
    if options.contrast_probability:
        rgb = scale_levels(rgb, jnp.where(contrast_first, contrast, 1.0))
    if options.hue_probability:
        rgb = adjust_hsv(rgb, saturation, hue)
    elif options.saturation_probability:
        rgb = adjust_saturation(rgb, saturation)
    if options.contrast_probability:
        rgb = scale_levels(rgb, jnp.where(contrast_first, 1.0, contrast))
    return rgb


def scale_levels(rgb: Planes, factor: jax.Array) -> Planes:
    """Multiply the planes `rgb` by `factor`, up to 255."""
    return [jnp.minimum(x * factor, 255) for x in rgb]


def adjust_saturation(rgb: Planes, factor: jax.Array) -> Planes:
    """Multiply the saturation of HSV by `factor`, up to 1; hue and value stay.

    A level is `value * (1 - saturation * f(hue))`: its distance from the value is proportional to the saturation.
    """
    value, chroma = _value_and_chroma(rgb)
    factor = jnp.minimum(factor, value / jnp.maximum(chroma, 1e-6))  # saturation = chroma / value, at most 1
    return [value - (value - x) * factor for x in rgb]


def adjust_hsv(rgb: Planes, factor: jax.Array, degrees: jax.Array) -> Planes:
    """Multiply the saturation of HSV by `factor`, up to 1, then add `degrees` to its hue.

    A hue below 0 becomes 0, as in Caffe, where hue is unsigned; a hue above 360 wraps around.
    """
    r, g, b = rgb
    value, chroma = _value_and_chroma(rgb)
    per_chroma = 1 / jnp.maximum(chroma, 1e-6)
    sixth = jnp.where(
        (r >= g) & (r >= b),
        (g - b) * per_chroma,
        jnp.where(g >= b, 2 + (b - r) * per_chroma, 4 + (r - g) * per_chroma),
    )  # -1..5
    sixth = jnp.maximum(jnp.where(sixth < 0, sixth + 6, sixth) + degrees / 60, 0)
    chroma = jnp.minimum(chroma * factor, value)
    return [value - chroma * _falloff(n + sixth) for n in (5.0, 3.0, 1.0)]


def _falloff(sixth: jax.Array) -> jax.Array:
    """Compute how far a channel lies below the value, in chromas; `sixth` >= 0 is a place on the colour circle."""
    sixth = sixth - 6 * jnp.floor(sixth / 6)
    return jnp.clip(jnp.minimum(sixth, 4 - sixth), 0, 1)


def _value_and_chroma(rgb: Planes) -> tuple[jax.Array, jax.Array]:
    value = jnp.maximum(jnp.maximum(*rgb[:2]), rgb[2])
    return value, value - jnp.minimum(jnp.minimum(*rgb[:2]), rgb[2])
