"""Boxes as offsets from priors, and back (SSD, section 2.2, eq. 2; Caffe's CENTER_SIZE code)."""

from collections.abc import Sequence

from ssd_jax.box.geometry import NO_SIDE, center_to_corner, corner_to_center
from ssd_jax.box.numerics import Array, Float, Real, Scalar, check_shape, maximum, minimum, widen

VARIANCES = (0.1, 0.1, 0.2, 0.2)

# A decoded side is at most e^20 times its prior's: larger than any box of an image, and far from float32's limit.
LARGEST_LOG_SIZE = 20.0


def encode(
    corners: Real[Array, "P 4"], priors: Real[Array, "P 4"], *, variances: Sequence[Scalar] = VARIANCES
) -> Float[Array, "P 4"]:
    """Encode corners [P, 4] as offsets [P, 4] from priors [P, 4] (centers).

    Sides below 1e-9 count as 1e-9, so that the logarithm stays finite.
    """
    check_shape("corners", corners, "P", 4)
    check_shape("priors", priors, *corners.shape)
    xp, boxes, priors, vx, vy, vw, vh = widen(corner_to_center(corners), priors, scalars=variances)
    (cx, cy, w, h), (px, py, pw, ph) = boxes.T, priors.T
    w, h, pw, ph = (maximum(side, NO_SIDE) for side in (w, h, pw, ph))
    return xp.stack([(cx - px) / pw / vx, (cy - py) / ph / vy, xp.log(w / pw) / vw, xp.log(h / ph) / vh], axis=-1)


def decode(
    offsets: Real[Array, "P 4"], priors: Real[Array, "P 4"], *, variances: Sequence[Scalar] = VARIANCES
) -> Float[Array, "P 4"]:
    """Decode offsets [P, 4] from priors [P, 4] (centers) to corners [P, 4]; they are not clipped, as in Caffe.

    A side is at most e^20 times that of its prior, so that the exponential stays finite.
    """
    check_shape("offsets", offsets, "P", 4)
    check_shape("priors", priors, *offsets.shape)
    xp, offsets, priors, vx, vy, vw, vh = widen(offsets, priors, scalars=variances)
    (tx, ty, tw, th), (px, py, pw, ph) = offsets.T, priors.T
    w, h = (xp.exp(minimum(t, LARGEST_LOG_SIZE)) for t in (tw * vw, th * vh))
    return center_to_corner(xp.stack([px + tx * vx * pw, py + ty * vy * ph, pw * w, ph * h], axis=-1))
