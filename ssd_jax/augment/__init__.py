"""SSD's training augmentation on the accelerator: pure functions of one image and a key, vmapped by the caller.

    image, boxes, labels = augment(key, canvas, size, boxes, labels, image_size=300, options=AugmentOptions())

Where it differs from Caffe:

* levels are clipped between the photometric steps as there, but not rounded (nor hue to its units of two degrees);
* windows are not cut to whole pixels, so that boxes fit what the image shows (Caffe's may be a pixel off);
* "nearest" takes the pixel under a result's pixel's centre, not its top left (OpenCV's INTER_NEAREST_EXACT);
* "area" averages also along an axis that shrinks while the other grows, where OpenCV interpolates.
"""

from ssd_jax.augment.options import INTERPOLATIONS, NO_AUGMENTATION, AugmentOptions
from ssd_jax.augment.pipeline import augment
from ssd_jax.preprocess import MEAN_COLOUR

__all__ = ["INTERPOLATIONS", "MEAN_COLOUR", "NO_AUGMENTATION", "AugmentOptions", "augment"]
