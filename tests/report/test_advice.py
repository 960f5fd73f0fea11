"""Advice about a dataset: each sentence, its number, and that a good dataset gets none."""

from collections import Counter

import numpy as np
import pytest

from ssd_jax.box import SSD300_VOC
from ssd_jax.report.advice import advice
from ssd_jax.report.dataset import Report


def report(sides=(90,) * 300, *, images=300, size=(300, 300), **changes):
    """A report of square boxes in the middle, with these sides in pixels of an input of 300."""
    half = np.array(sides, np.float32)[:, None] / 600
    corners = 0.5 + half * np.float32([-1, -1, 1, 1])
    values = {"images": images, "boxes": len(sides), "by_class": Counter(dog=len(sides)), "corners": corners}
    return Report(("dog",), **(values | {"sizes": Counter({size: images}), "most_boxes": 1} | changes))


def about(*words, of, **options):
    sentences = advice(of, SSD300_VOC, **({"max_boxes": 64} | options))
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences)
    assert any(all(word in sentence for word in words) for sentence in sentences), sentences


def test_a_good_dataset_needs_no_advice():
    assert advice(report(), SSD300_VOC, max_boxes=64) == []


@pytest.mark.parametrize(("small", "said"), [(99, "33 % of the boxes"), (33, "11 % of the boxes"), (20, None)])
def test_small_boxes(small, said):
    of = report((12,) * small + (90,) * (300 - small))
    sentences = advice(of, SSD300_VOC, max_boxes=64)
    expected = f"{said} are under 16 pixels at this input of 300: use a larger input or smaller priors."
    assert any(sentence == expected for sentence in sentences) == (said is not None)


def test_boxes_that_no_prior_covers():
    wide = report(corners=np.tile(np.float32([[0.05, 0.48, 0.95, 0.52]]), (300, 1)))
    about("100 % of the boxes have no prior with an IoU of 0.5 or more", "57 to 57 pixels", of=wide)


def test_classes_with_few_boxes():
    of = report()
    of.class_names, of.by_class = ("dog", "cat", "eel"), Counter(dog=297, cat=3)
    about("2 of the 3 classes have fewer than 20 boxes", "cat (3), eel (0);", of=of)


def test_images():
    about("150 images are few: start from pretrained weights", of=report(images=150))
    about("67 % of the images have no box", of=report(empty=200))
    about("2 of the images cannot be read", of=report(findings={"unreadable": ["a", "b"]}))
    about("mostly 2000 pixels, and are shrunk to 300", of=report(size=(1500, 2000)))
    about("An image has 90 boxes, and training takes 64", "--config.data.max_boxes=90", of=report(most_boxes=90))
    about("No image has a box", of=report((), corners=np.zeros((0, 4), np.float32)))
