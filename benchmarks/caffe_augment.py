"""The augmentation of SSD as in Caffe, image by image on the host: the reference of tests and benchmarks.

It follows the description of Caffe's layers, in plain Python, NumPy and OpenCV; images are uint8 RGB.
"""

import math

import cv2
import numpy as np

MEAN = (123, 117, 104)
MIN_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
    "cubic": cv2.INTER_CUBIC,
    "lanczos4": cv2.INTER_LANCZOS4,
}


def saturate(levels):
    """Round and clip levels to uint8, as OpenCV's arithmetic does."""
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def distort(rng, image):
    if rng.random() < 0.5:
        image = saturate(image + rng.uniform(-32, 32))
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    first = rng.random() < 0.5
    if first:
        image = saturate(image * contrast)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = saturate(hsv[..., 1] * rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = saturate(hsv[..., 0] + rng.uniform(-18, 18))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if first else saturate(image * contrast)


def expand(rng, image, boxes, *, max_ratio=4.0):
    if rng.random() >= 0.5:
        return image, boxes
    ratio = rng.uniform(1, max_ratio)
    height, width = image.shape[:2]
    canvas = np.empty((int(height * ratio), int(width * ratio), 3), np.uint8)
    canvas[:] = MEAN
    top = math.floor(rng.uniform(0, canvas.shape[0] - height))
    left = math.floor(rng.uniform(0, canvas.shape[1] - width))
    canvas[top : top + height, left : left + width] = image
    pixels = boxes * [width, height, width, height] + [left, top, left, top]
    return canvas, pixels / [canvas.shape[1], canvas.shape[0], canvas.shape[1], canvas.shape[0]]


def random_window(rng):
    scale, aspect = rng.uniform(0.3, 1), rng.uniform(0.5, 2)
    aspect = min(max(aspect, scale**2), 1 / scale**2)
    width, height = scale * math.sqrt(aspect), scale / math.sqrt(aspect)
    left, top = rng.uniform(0, max(1 - width, 0)), rng.uniform(0, max(1 - height, 0))
    return left, top, left + width, top + height


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def crop_candidates(rng, boxes, *, trials=50):
    """Find for each sampler its first window that overlaps an object enough, or None."""
    found = []
    for wanted in MIN_IOUS:
        windows = (random_window(rng) for _ in range(trials))
        found.append(next((w for w in windows if any(iou(w, box) >= wanted for box in boxes)), None))
    return found


def sample_crop(rng, boxes):
    windows = [(0.0, 0.0, 1.0, 1.0), *(w for w in crop_candidates(rng, boxes) if w is not None)]
    return windows[rng.integers(len(windows))]


def crop(image, boxes, labels, window):
    height, width = image.shape[:2]
    left, top, right, bottom = window
    x, y = int(left * width), int(top * height)
    image = image[y : y + int((bottom - top) * height), x : x + int((right - left) * width)]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    keep = ((centre >= [left, top]) & (centre <= [right, bottom])).all(axis=1)
    moved = (boxes[keep] - [left, top, left, top]) / [right - left, bottom - top, right - left, bottom - top]
    return image, np.clip(moved, 0, 1), labels[keep]


def augment(rng, image, boxes, labels, *, image_size, interpolations=tuple(INTERPOLATIONS)):
    """Distort, expand, crop, resize, mirror, subtract the mean; boxes are fractions, labels from 1."""
    image = distort(rng, image)
    image, boxes = expand(rng, image, boxes)
    image, boxes, labels = crop(image, boxes, labels, sample_crop(rng, boxes))
    method = INTERPOLATIONS[interpolations[rng.integers(len(interpolations))]]
    image = cv2.resize(image, (image_size, image_size), interpolation=method)
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
    return image.astype(np.float32) - np.array(MEAN, np.float32), boxes, labels
