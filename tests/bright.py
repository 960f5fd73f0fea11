"""A detector that needs no network: it finds the bright part of an image."""

import numpy as np

from ssd_jax.inference import Detector


class Bright(Detector):
    """Finds the box around all pixels above 200 in what it sees, which is 64 x 64; a few pixels are nothing."""

    def __init__(self, **_):
        self._describe(64, ("square",), 7, 4)
        self.options, self.variables = {}, {}

    def _run(self, batch):
        boxes, scores = np.zeros((len(batch), 1, 4), np.float32), np.zeros((len(batch), 1), np.float32)
        for k, image in enumerate(batch):
            y, x = np.nonzero(image[:, :, 0] > 200)
            if len(x) > 20:
                boxes[k, 0] = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 64
                scores[k] = 0.9
        return boxes, scores, (scores > 0).astype(np.int32)


def square(number, size=64, side=16):
    """Draw a white square whose place tells the number: RGB uint8 [size, size, 3], and its corners in pixels."""
    image = np.zeros((size, size, 3), np.uint8)
    y, x = divmod(number, size - side)
    image[y : y + side, x : x + side] = 255
    return image, [x, y, x + side, y + side]
