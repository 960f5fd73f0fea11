"""Files become detectors, or variables to train from, or are refused in one line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax.traverse_util import flatten_dict
from writers import caffemodel, pth

from ssd_jax.box import SSD300_COCO, SSD300_VOC
from ssd_jax.data.classes import COCO, COCO_IDS, VOC
from ssd_jax.inference import load_detector
from ssd_jax.loop.workdir import load_config
from ssd_jax.model import SSD
from ssd_jax.model.backbones.resnet import IMAGENET_MEAN
from ssd_jax.pretrained import load, start_from, write_workdir
from ssd_jax.pretrained.__main__ import class_names, run
from ssd_jax.pretrained.convert import IMAGENET_DEVIATION, PIXELS

WIDTH = reference.WIDTH


def write(folder, data, name="weights.pth"):
    path = folder / name
    path.write_bytes(data)
    return path


def tensors_of(naming, maps=6, classes=21):
    return reference.random_tensors(naming(maps), maps, classes)


def variables_of(model, seed=0):
    size = model.spec.image_size
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
    random = np.random.default_rng(seed)
    return {"params": jax.tree.map(lambda s: random.normal(size=s.shape).astype(np.float32), shapes)}


def test_classes_are_those_of_the_data_sets():
    assert (len(VOC), len(COCO), len(COCO_IDS)) == (20, 80, 80)
    names = dict(zip(COCO_IDS, COCO, strict=True))
    assert (names[1], names[13], names[44], names[67], names[90]) == (
        *("person", "stop sign", "bottle", "dining table"),
        "toothbrush",
    )


# Backbones.


def vgg_tensors(prefix, *, fc=True):
    names = reference.places()
    shapes = reference.shapes(6, 21)
    random = np.random.default_rng(0)
    chosen = {layer: place for layer, place in names.items() if fc or not layer.startswith("fc")}
    return {
        f"{prefix}{place}.{part}": random.normal(size=shapes[layer][: 4 if part == "weight" else 1]).astype(
            np.float32
        )
        for layer, place in chosen.items()
        for part in ("weight", "bias")
    }


def test_the_backbone_of_ssd_pytorch(tmp_path):
    tensors = vgg_tensors("")
    weights = load(write(tmp_path, pth(tensors, legacy=True)), width=WIDTH)
    assert weights.model is None
    assert weights.notes == ()
    assert len(weights.params) == 30
    kernel = weights.params["trunk/conv1_1/conv/kernel"]
    np.testing.assert_array_equal(kernel[2, 0, 1], tensors["0.weight"][:, 1, 2, 0])
    np.testing.assert_array_equal(weights.params["trunk/fc7/conv/bias"], tensors["33.bias"])


@pytest.mark.parametrize("classifier", [{}, {f"classifier.{i}.weight": np.full((2, 2), np.nan) for i in (0, 3, 6)}])
def test_features_without_a_classifier_are_fed_our_pixels(tmp_path, classifier):
    tensors = vgg_tensors("features.", fc=False) | classifier
    weights = load(write(tmp_path, pth(tensors)), width=WIDTH)
    assert weights.notes == ("it has no fc6 and fc7: they keep their initial values",)
    assert len(weights.params) == 26
    kernel = weights.params["trunk/conv1_1/conv/kernel"]
    np.testing.assert_array_equal(kernel, tensors["features.0.weight"].transpose(2, 3, 1, 0))


def test_torchvisions_vgg16_has_its_deviation_folded_and_its_classifier_subsampled(tmp_path):
    tensors = vgg_tensors("features.", fc=False)
    random = np.random.default_rng(1)
    wide = int(4096 * WIDTH)
    shapes = {"0": (wide, int(512 * WIDTH) * 49), "3": (wide, wide), "6": (10, wide)}
    for place, shape in shapes.items():
        tensors[f"classifier.{place}.weight"] = random.normal(size=shape).astype(np.float32)
        tensors[f"classifier.{place}.bias"] = random.normal(size=shape[:1]).astype(np.float32)
    weights = load(write(tmp_path, pth(tensors)), width=WIDTH)
    assert weights.notes == ("fc6 and fc7 are subsampled to 3x3 and 1x1 convolutions",)
    fc6 = tensors["classifier.0.weight"].reshape(wide, -1, 7, 7)
    kernel = weights.params["trunk/fc6/conv/kernel"]
    assert kernel.shape == (3, 3, int(512 * WIDTH), int(1024 * WIDTH))
    assert kernel[1, 2, 5, 7] == fc6[28, 5, 3, 6]
    np.testing.assert_array_equal(weights.params["trunk/fc6/conv/bias"], tensors["classifier.0.bias"][::4])
    assert weights.params["trunk/fc7/conv/kernel"][0, 0, 3, 5] == tensors["classifier.3.weight"][20, 12]
    first, bias = (weights.params[f"trunk/conv1_1/conv/{leaf}"] for leaf in ("kernel", "bias"))
    weight = tensors["features.0.weight"]
    np.testing.assert_allclose(first[0, 1, 2], weight[:, 2, 0, 1] / IMAGENET_DEVIATION[2], rtol=1e-6)
    # Our model is fed zeros for an image of the mean colour, (123, 117, 104).
    mean_colour = np.subtract((123, 117, 104), IMAGENET_MEAN) / IMAGENET_DEVIATION
    expected = tensors["features.0.bias"] + np.einsum("oihw,i->o", weight, mean_colour)
    np.testing.assert_allclose(bias, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("v1", [False, True])
def test_the_backbone_of_caffe_is_fed_bgr(tmp_path, v1):
    places = {str(place): layer for layer, place in reference.places().items()}
    tensors = {f"{places[name.split('.')[0]]}.{name.split('.')[1]}": a for name, a in vgg_tensors("").items()}
    tensors |= {"fc8.weight": np.zeros((2, 3), np.float32)} if not v1 else {}
    weights = load(write(tmp_path, caffemodel(tensors, v1=v1)), width=WIDTH)
    kernel = weights.params["trunk/conv1_1/conv/kernel"]
    np.testing.assert_array_equal(kernel[2, 0, 0], tensors["conv1_1.weight"][:, 2, 2, 0])
    np.testing.assert_array_equal(weights.params["trunk/conv1_1/conv/bias"], tensors["conv1_1.bias"])


def test_pixels_can_be_given(tmp_path):
    path = write(tmp_path, pth(vgg_tensors("")))
    rgb, bgr = (
        load(path, pixels=pixels, width=WIDTH).params["trunk/conv1_1/conv/kernel"] for pixels in ("rgb", "bgr")
    )
    np.testing.assert_array_equal(rgb, bgr[:, :, ::-1])
    with pytest.raises(ValueError, match=f"pixels must be one of {', '.join(PIXELS)}; got 'hsv'"):
        load(path, pixels="hsv", width=WIDTH)


# What does not fit.


def refused(path, message, **options):
    with pytest.raises(ValueError, match=message) as error:
        load(path, **({"width": WIDTH} | options))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def changed(changes):
    tensors = tensors_of(reference.ssd_pytorch)
    for name, change in changes.items():
        tensors[name] = change(tensors.get(name))
    return {name: array for name, array in tensors.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vgg.12.bias": lambda a: None}, r"vgg\.12\.bias must have shape \[16\]; got no such tensor$"),
        (
            {"vgg.12.weight": lambda a: a[:, :, :2]},
            r"vgg\.12\.weight must have shape \[16, 16, 3, 3\]; got \[16, 16, 2, 3\]",
        ),
        (
            {"vgg.99.bias": lambda a: np.zeros(3)},
            r"every tensor must be one of the network's; got vgg\.99\.bias of shape \[3\]",
        ),
        (
            {"conf.2.bias": lambda a: a[:-6]},
            r"conf\.2\.bias must have shape \[126\]; got \[120\]",
        ),  # 20 classes, not 21
        (
            {"conf.0.bias": lambda a: a[:-1]},
            r"must have 4 numbers for each of at least two classes; got shape \[83\]",
        ),
        ({"conf.0.bias": lambda a: None}, r"must have a tensor conf\.0\.bias; got none"),
        ({"L2Norm.weight": lambda a: a * np.inf}, r"L2Norm\.weight of shape \[32\] must be finite"),
        (
            {"extras.0.bias": lambda a: None, "extras.1.bias": lambda a: None},
            r"extras\.0\.bias must have shape \[16\]; got no such tensor; 1 more do not fit",
        ),
    ],
)
def test_a_file_that_does_not_fit_names_the_tensor(tmp_path, changes, message):
    refused(write(tmp_path, pth(changed(changes))), message)


def test_what_fits_is_taken_if_asked_for(tmp_path):
    changes = {"vgg.12.bias": lambda a: None, "vgg.14.bias": lambda a: a[:2], "x": lambda a: np.zeros(3)}
    weights = load(write(tmp_path, pth(changed(changes))), width=WIDTH, partial=True)
    assert weights.notes == (
        "skipped: vgg.12.bias must have shape [16]; got no such tensor",
        "skipped: vgg.14.bias must have shape [16]; got [2]",
        "skipped: every tensor must be one of the network's; got x of shape [3]",
    )
    whole = load(write(tmp_path, pth(changed({})), "whole.pth"), width=WIDTH)
    assert whole.params.keys() - weights.params.keys() == {
        "trunk/conv3_2/conv/bias",
        "trunk/conv3_3/conv/bias",
    }


def test_another_network(tmp_path):
    path = write(tmp_path, pth({"layer1.0.conv1.weight": np.zeros((2, 2)), "fc.bias": np.zeros(2)}))
    refused(
        path, r"must be one of torchvision's ssd300_vgg16, .*; got one with .* layer1\.0\.conv1\.weight, fc\.bias"
    )


def test_a_number_of_classes_that_does_not_tell_the_priors(tmp_path):
    path = write(tmp_path, pth(tensors_of(reference.ssd_pytorch, classes=4)))
    refused(path, "the 21 classes of VOC or the 81 of COCO, .* --priors=voc or --priors=coco.*; got 4 classes")
    weights = load(path, priors="coco", width=WIDTH)
    assert weights.model.spec == dataclasses.replace(SSD300_COCO, clamp_centers=True)
    assert weights.class_names is None
    with pytest.raises(ValueError, match="priors must be one of voc, coco; got 'oid'"):
        load(path, priors="oid", width=WIDTH)


# Detectors.


def test_torchvisions_labels_that_are_no_class_are_removed(tmp_path):
    tensors = tensors_of(reference.torchvision, classes=91)
    weights = load(write(tmp_path, pth(tensors)), width=WIDTH)
    assert weights.notes == ("of 91 labels, the ten that are no class of COCO are removed",)
    assert weights.model.num_classes == 81
    assert weights.class_names == COCO
    names = reference.torchvision()
    before, after = tensors[f"{names['conf0']}.bias"].reshape(4, 91), weights.params["conf0/conv/bias"].reshape(4, 81)
    np.testing.assert_array_equal(after[:, 0], before[:, 0])  # background
    np.testing.assert_array_equal(after[:, COCO.index("toothbrush") + 1], before[:, 90])


def test_an_imported_workdir_detects(tmp_path, capsys):
    path = write(tmp_path, caffemodel(tensors_of(reference.caffe)))
    weights = load(path, width=WIDTH)
    write_workdir(weights, tmp_path / "run", VOC, root="VOCdevkit/VOC2007")
    detector = load_detector(tmp_path / "run", score_threshold=0.2)
    assert detector.class_names == VOC
    assert detector.model == weights.model
    assert detector.step == 0
    for name, array in flatten_dict(detector.variables["params"], sep="/").items():
        np.testing.assert_array_equal(array, weights.params[name])
    (found,) = detector([np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)])
    assert len(found.labels) > 0
    config = load_config(tmp_path / "run")
    assert (config.data.source, config.data.root, config.data.eval) == ("voc_folder", "VOCdevkit/VOC2007", "test")
    assert config.imported == ["an SSD of Caffe"]
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert set(stored) == {"imported", "data"}
    assert set(stored["data"]) == {"source", "root", "train", "eval", "class_names"}  # the loop fills the rest
    with pytest.raises(ValueError, match="must have no checkpoint; got one that has"):
        write_workdir(weights, tmp_path / "run", VOC)


def test_a_workdir_takes_as_many_names_as_classes(tmp_path):
    weights = load(write(tmp_path, pth(tensors_of(reference.lufficc))), width=WIDTH)
    with pytest.raises(ValueError, match="class_names must be 20; got 3"):
        write_workdir(weights, tmp_path / "run", ("a", "b", "c"))
    backbone = load(write(tmp_path, pth(vgg_tensors(""))), width=WIDTH)
    with pytest.raises(ValueError, match=r"must be a detector's; got a VGG16 of ssd\.pytorch, .*config\.init_from"):
        write_workdir(backbone, tmp_path / "run", VOC)


# The command.


@pytest.fixture
def narrow(monkeypatch):
    """Let the command read networks as narrow as the tests'."""
    import ssd_jax.pretrained.__main__ as command

    monkeypatch.setattr(command, "load", lambda *args, **options: load(*args, **options, width=WIDTH))


def test_the_command_writes_a_workdir(tmp_path, narrow):
    path = write(tmp_path, pth(tensors_of(reference.ssd_pytorch)))
    line = run([str(path), f"--workdir={tmp_path / 'run'}", "--root=DIR"])
    assert line == (
        f"{path} is an SSD of ssd.pytorch; 300 pixels, 20 classes, priors of VOC; written to {tmp_path / 'run'}"
    )
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["root"] == "DIR"
    assert load_detector(tmp_path / "run").class_names == VOC


def test_the_command_describes_a_file(tmp_path, narrow):
    path = write(tmp_path, pth(vgg_tensors("")))
    assert run([str(path)]) == f"{path} is a VGG16 of ssd.pytorch; train from it with --config.init_from={path}"
    with pytest.raises(ValueError, match="a workdir must have a detector; got a VGG16"):
        run([str(path), f"--workdir={tmp_path / 'run'}"])


def test_the_command_asks_for_names_it_cannot_know(tmp_path, narrow):
    path = write(tmp_path, pth(tensors_of(reference.ssd_pytorch, classes=4)))
    arguments = [str(path), f"--workdir={tmp_path / 'run'}", "--priors=voc"]
    with pytest.raises(ValueError, match="the names of its 3 classes must be given: --classes=NAME,NAME"):
        run(arguments)
    run([*arguments, "--classes=cat, dog,cow"])
    assert load_detector(tmp_path / "run").class_names == ("cat", "dog", "cow")
    names = tmp_path / "names.txt"
    names.write_text("\ufeffcat\ndög\n\ncow\n", "utf-8")
    assert class_names(str(names)) == ("cat", "dög", "cow")
    assert class_names(",".join(COCO)) == COCO  # too long for the name of a file
    names.write_text("cat\ndog", "utf-16")
    with pytest.raises(ValueError, match=r"names\.txt: names of classes must be UTF-8"):
        class_names(str(names))


# Starting a training.


def started(path, class_names, spec=SSD300_VOC, seed=1):
    model = SSD(1 + len(class_names), spec, width=WIDTH)
    before = variables_of(model, seed)
    after, line = start_from(path, before, class_names, width=WIDTH)
    before, after = (flatten_dict(v["params"], sep="/") for v in (before, after))
    assert before.keys() == after.keys()
    kept = {name for name in before if np.array_equal(before[name], after[name])}
    return after, kept, line


def test_from_a_backbone(tmp_path):
    path = write(tmp_path, pth(vgg_tensors("")))
    after, kept, line = started(path, ("a", "b"))
    assert kept == {name for name in after if not name.startswith("trunk/")}
    assert line == f"{path} (a VGG16 of ssd.pytorch): the backbone is taken"


def test_from_a_detector_of_other_classes(tmp_path):
    path = write(tmp_path, pth(tensors_of(reference.ssd_pytorch)))
    _, kept, line = started(path, ("a", "b"))
    assert kept == {f"conf{k}/conv/{leaf}" for k in range(6) for leaf in ("kernel", "bias")}
    assert line.endswith("all of it is taken but the class heads, because its classes differ")
    _, kept, _ = started(path, tuple(f"class {i}" for i in range(20)))  # as many, but others
    assert len(kept) == 12


def test_from_a_detector_of_the_same_classes(tmp_path):
    path = write(tmp_path, pth(tensors_of(reference.ssd_pytorch)))
    after, kept, line = started(path, VOC)
    assert kept == set()
    assert line == f"{path} (an SSD of ssd.pytorch): all of it is taken"
    np.testing.assert_array_equal(after["conf0/conv/bias"], load(path, width=WIDTH).params["conf0/conv/bias"])


def test_from_a_workdir(tmp_path):
    weights = load(write(tmp_path, pth(tensors_of(reference.ssd_pytorch))), width=WIDTH)
    write_workdir(weights, tmp_path / "run", VOC)
    _, kept, line = started(tmp_path / "run", VOC)
    assert kept == set()
    assert line == f"{tmp_path / 'run'} (a checkpoint of ssd_jax): all of it is taken"
    _, kept, _ = started(tmp_path / "run", ("a",))
    assert len(kept) == 12


def test_a_start_that_does_not_fit_names_the_tensor(tmp_path):
    path = write(tmp_path, pth(tensors_of(reference.lufficc, 7)))
    message = r"params/conf4/conv/bias must have shape \[84\], as in the model to train; got shape \[126\]"
    with pytest.raises(ValueError, match=message):
        started(path, VOC)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        (tmp_path / "empty").mkdir()
        started(tmp_path / "empty", VOC)
