"""SSD's training augmentation on the accelerator: pure functions of one image and a key, vmapped by the caller.

    image, boxes, labels = augment(key, canvas, size, boxes, labels, image_size=300, options=AugmentOptions())

Differences from Caffe:

* levels are clipped between the photometric steps as in Caffe, but not rounded to integers, nor is hue rounded to
  units of two degrees;
* windows are not rounded to whole pixels, so that boxes fit the image exactly (Caffe's may be a pixel off);
* "nearest" takes the pixel at the centre of a result's pixel (OpenCV's INTER_NEAREST_EXACT), not at its top left;
* "area" also averages along an axis that shrinks while the other axis grows, where OpenCV interpolates.
"""

from ssd_jax.augment.options import INTERPOLATIONS, NO_AUGMENTATION, AugmentOptions
from ssd_jax.augment.pipeline import augment
from ssd_jax.preprocess import MEAN_COLOUR

__all__ = ["INTERPOLATIONS", "MEAN_COLOUR", "NO_AUGMENTATION", "AugmentOptions", "augment"]
