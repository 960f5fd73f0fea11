"""Random brightness, contrast, saturation and hue of one image, on the scale 0..255.

Caffe keeps the image in uint8, and so rounds to whole levels after each step, and hue to two degrees. Here the
levels are clipped to 0..255 after each step as there, but not rounded.
"""

import jax
import jax.numpy as jnp


def distort(key, rgb, *, options):
    """Caffe's `ApplyDistort`: brightness, then contrast either before or after saturation and hue, an even chance.

    Args:
        key: a JAX random key.
        rgb: three float32 planes of one shape, levels 0..255.
        options: `AugmentOptions`.

    Returns:
        Three float32 planes, levels 0..255.
    """
    chance, amount = jax.random.uniform(key, (2, 5))

    def drawn(i, probability, lowest, highest, neutral):
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


def scale_levels(rgb, factor):
    """Multiply the planes `rgb` by `factor`, up to 255."""
    return [jnp.minimum(x * factor, 255) for x in rgb]


def adjust_saturation(rgb, factor):
    """Multiply the saturation of HSV by `factor`, up to 1; hue and value stay.

    A level is `value * (1 - saturation * f(hue))`, so its distance from the value grows as the saturation does.
    """
    value, chroma = _value_and_chroma(rgb)
    factor = jnp.minimum(factor, value / jnp.maximum(chroma, 1e-6))  # saturation = chroma / value, at most 1
    return [value - (value - x) * factor for x in rgb]


def adjust_hsv(rgb, factor, degrees):
    """Multiply the saturation of HSV by `factor`, up to 1, then add `degrees` to its hue.

    As in Caffe, whose hue is unsigned, a hue that falls below 0 becomes 0; above 360 it wraps around.
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


def _falloff(sixth):
    """How many chromas below the value a channel lies; `sixth` (at least 0) is its place on the colour circle."""
    sixth = sixth - 6 * jnp.floor(sixth / 6)
    return jnp.clip(jnp.minimum(sixth, 4 - sixth), 0, 1)


def _value_and_chroma(rgb):
    value = jnp.maximum(jnp.maximum(*rgb[:2]), rgb[2])
    return value, value - jnp.minimum(jnp.minimum(*rgb[:2]), rgb[2])
