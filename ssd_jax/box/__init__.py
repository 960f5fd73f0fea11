"""Boxes for detectors: pure functions of one image, to be vmapped by the caller.

Conventions, for the whole library:

* corners are `[x_min, y_min, x_max, y_max]`, fractions of the image side, origin top left;
  centers are `[cx, cy, w, h]` in the same unit.
* priors are centers, shape `[P, 4]`, in the order feature map, row, column, shape.
* label 0 is background (`BACKGROUND`), object classes are 1..C-1; a padding row of ground truth has label 0.
* axis letters: B images, P priors, G ground-truth slots, C classes, K candidates, D detections.
* arrays have static shapes; what is missing is masked, never ragged.
"""
