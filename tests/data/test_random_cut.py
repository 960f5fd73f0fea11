"""Random cuts: the parts fit together, near-duplicates stay together, and classes keep their shares."""

import hashlib
import itertools
import random
import sys
import types
from collections import Counter

import cv2
import numpy as np
import pytest
import tiny
from layouts import voc_beside
from test_voc import one_line

from ssd_jax.data import Example, Examples, open_source, random_order
from ssd_jax.data.random_cut import original

BOX = np.float32([[0.1, 0.1, 0.5, 0.5]])


def example(name, labels=(1,), pixels=None):
    """An image of noise that depends on its name, unless `pixels` are given."""
    if pixels is None:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    n = len(labels)
    return Example(name, pixels, np.repeat(BOX, n, 0), np.array(labels, np.int32), np.zeros(n, bool), file=name)


def sides(examples, cut="80%", seed=0, classes=3):
    """Return the names on both sides of a cut."""
    source = Examples(examples, [f"class {k}" for k in range(1, classes + 1)])
    module = types.SimpleNamespace(open=lambda split: source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mine", module)
        parts = [open_source("mine:open", f"all[~{part}, seed={seed}]") for part in (f":{cut}", f"{cut}:")]
    return [[e.file for e in part] for part in parts]


WORDS = [f"{word}{end}" for word in ("oak", "elm", "fir", "yew", "ash") for end in "abcdefghijklmnopqrst"]  # 100


def test_the_parts_of_a_cut_are_disjoint_and_cover_everything_in_the_order_of_the_files():
    examples = [example(name) for name in WORDS]
    seen = set()
    for seed in range(3):
        train, val = sides(examples, seed=seed)
        assert (len(train), len(val)) == (80, 20)
        assert sorted(train + val) == sorted(WORDS)
        assert train == [name for name in WORDS if name in train]
        seen.add(tuple(val))
    assert len(seen) == 3  # another seed is another draw
    assert sides(examples) == sides(examples)


def test_three_parts_fit_together():
    source = Examples([example(name) for name in WORDS], ["a"])
    order, ends = random_order(source)
    assert sorted(order) == list(range(100)) and ends == list(range(1, 101))


def test_the_order_depends_neither_on_the_order_of_the_images_nor_on_the_machine():
    examples = [example(name) for name in WORDS]
    shuffled = random.Random(0).sample(examples, len(examples))
    assert set(sides(examples)[1]) == set(sides(shuffled)[1])
    # Of one class, and without near-duplicates, the digests of seed and name alone give the order. It must never
    # change, or old runs would be evaluated on what they were trained on.
    last = sorted(WORDS[:10], key=lambda name: hashlib.sha256(f"0/{name}".encode()).hexdigest())[-2:]
    assert sides([example(name) for name in WORDS[:10]])[1] == sorted(last) == ["oakc", "oakh"]


def test_every_class_keeps_its_share():
    rng = random.Random(1)
    labels = [rng.choice([(1,), (1,), (1, 1), (1, 2), (1, 2, 2)]) for _ in WORDS]
    for k in range(0, 100, 10):
        labels[k] = (3, 1)  # a rare class, in ten images
    train, val = sides([example(name, own) for name, own in zip(WORDS, labels, strict=True)])
    of = dict(zip(WORDS, labels, strict=True))
    in_train, in_val = (Counter(k for name in part for k in set(of[name])) for part in (train, val))
    assert in_val[3] == 2 and in_train[3] == 8
    assert abs(in_val[2] - 0.2 * (in_val[2] + in_train[2])) <= 2


@pytest.mark.parametrize("number", [3, 4, 5, 10])
def test_a_rare_class_is_on_both_sides(number):
    examples = [example(name, (2, 1) if k < number else (1,)) for k, name in enumerate(WORDS)]
    for part in sides(examples):
        assert set(part) & set(WORDS[:number])


def test_copies_stay_together():
    endings = (
        ".png",
        "_jpg.rf.0123456789abcdef.png",
        "_png.rf.ff00.png",
        "_flip.png",
        "_rot_90.png",
        " (1).png",
        "_aug3.png",
    )
    names = [f"{word}{ending}" for word in WORDS[:30] for ending in endings]
    train, val = sides([example(name) for name in names])
    stems = [{original(name) for name in part} for part in (train, val)]
    assert stems[0] | stems[1] == set(WORDS[:30]) and not stems[0] & stems[1]
    assert len(val) == len(names) // 5


@pytest.mark.parametrize("name", ["oak", "crop", "flip", "rot", "copy", "a.b"])
def test_a_name_without_a_copys_ending_is_its_own_original(name):
    assert original(f"folder/{name}.png") == name


def test_the_same_pixels_are_never_on_both_sides():
    """Whatever the name and the format of the file are."""
    examples = []
    for k, name in enumerate(WORDS[:20]):
        pixels = example(name).image
        examples.append(example(f"{name}.png", pixels=pixels))
        file = cv2.imencode(".bmp" if k % 2 else ".png", pixels[:, :, ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 1))[1]
        examples.append(example(f"{'zyxwv'[k % 5]}{k}q.png", pixels=file.tobytes()))
    pairs = {e.file: k // 2 for k, e in enumerate(examples)}
    train, val = ({pairs[name] for name in part} for part in sides(examples))
    assert not train & val and len(val) == 4


def test_frames_of_a_video_stay_together():
    names = [f"{video}_frame_{k:04}.jpg" for video in "abcdefghij" for k in range(1, 11)]
    train, val = ({name[0] for name in part} for part in sides([example(name) for name in names]))
    assert not train & val and len(val) == 2


def test_a_single_video_is_cut_between_stretches_of_frames():
    names = [f"frame_{k:05}.jpg" for k in range(0, 2000, 10)]
    train, val = sides([example(name) for name in names])
    assert (len(train), len(val)) == (160, 40)
    on_the_left = [name in val for name in names]
    changes = sum(a != b for a, b in itertools.pairwise(on_the_left))
    assert changes <= 8  # four stretches of ten frames


def test_a_numbering_by_class_is_no_video():
    """apple_1 ... apple_40: were they one group, all apples would be on one side."""
    examples = [
        example(f"{name}_{k}.jpg", (label,))
        for label, name in enumerate(("apple", "pear", "fig"), 1)
        for k in range(40)
    ]
    train, val = (Counter(name.partition("_")[0] for name in part) for part in sides(examples))
    assert min(train.values()) > 25 and min(val.values()) >= 5 and len(val) == len(train) == 3


def test_two_groups_give_two_parts():
    names = [f"{a}_flip{k}.png" for a in ("oak", "elm") for k in range(5)]
    train, val = sides([example(name) for name in names])
    assert {len(train), len(val)} == {5}


def test_unreadable_images_are_cut_too():
    examples = [example(name) for name in WORDS[:9]] + [example("broken", pixels=b"no image")]
    train, val = sides(examples)
    assert len(train) == 8 and len(val) == 2


@pytest.mark.parametrize(
    ("split", "rule"),
    [
        ("all[~90%:90%]", "'all[~90%:90%]' must be one or more of the 6 images of 'all'"),
        ("all[~:9]", "'all[~:9]' must be one or more of the 6 images of 'all'"),
        ("all[:80%, seed=1]", "a part of a split must be name, name[from:to] or name[~from:to]"),
        ("all[~80%]", "a part of a split must be name, name[from:to] or name[~from:to]"),
    ],
)
def test_cuts_that_cannot_be_made(tmp_path, split, rule):
    images = tiny.Images(6)
    voc_beside(tmp_path, Examples([images[i] for i in range(6)], images.class_names))
    with pytest.raises(ValueError) as error:
        open_source("auto", split, root=tmp_path)
    one_line(error, rule)


def test_images_that_are_all_alike_cannot_be_cut(tmp_path):
    names = [f"oak_flip{k}.png" for k in range(5)]
    with pytest.raises(ValueError) as error:
        sides([example(name) for name in names])
    one_line(error, "too many are alike (the same pixels, copies by name, frames of one series)")


def test_a_function_may_take_the_folder(monkeypatch, tmp_path):
    seen = []

    def with_root(split, root):
        seen.append((split, root))
        return Examples([example("a")], ["x"])

    def without(split):
        return with_root(split, None)

    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(a=with_root, b=without))
    for name in "ab":
        open_source(f"mine:{name}", "train", root=tmp_path)
    assert seen == [("train", tmp_path), ("train", None)]
