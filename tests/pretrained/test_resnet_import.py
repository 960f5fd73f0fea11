"""torchvision's ResNet-50 becomes a backbone that computes the same, at the image's edge too."""

import functools

import jax
import numpy as np
import pytest
import reference
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict
from writers import pth

from ssd_jax.model import ResNet50, initialise, preprocess, variable_shapes
from ssd_jax.model.layers import ConvBlock
from ssd_jax.pretrained import load, start_from
from ssd_jax.pretrained.__main__ import run
from ssd_jax.pretrained.start import is_of_classes

MODEL = tiny.MODEL.clone(backbone="resnet50", width=reference.WIDTH)
MEAN = np.array([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = np.array([0.229, 0.224, 0.225])[:, None, None]


def write(folder, tensors, name="resnet50.pth"):
    path = folder / name
    path.write_bytes(pth(tensors))
    return path


def backbone_variables(weights):
    """Return the variables of the backbone."""
    return {
        "params": unflatten_dict(weights.params, sep="/")["trunk"],
        "batch_stats": unflatten_dict(weights.batch_stats, sep="/")["trunk"],
    }


def backbone(width):
    return ResNet50(functools.partial(ConvBlock, norm="batch"), width)


@pytest.mark.parametrize("side", [75, 64])
def test_the_backbone_computes_what_torchvisions_does(tmp_path, side):
    tensors = reference.resnet_tensors()
    weights = load(write(tmp_path, tensors), width=reference.WIDTH)
    assert weights.title == "torchvision's ResNet-50"
    assert weights.model is None
    assert weights.notes == ()
    image = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    expected = reference.resnet_forward(tensors, (image.transpose(2, 0, 1) / 255 - MEAN) / DEVIATION)
    apply = jax.jit(functools.partial(backbone(reference.WIDTH).apply, train=False))
    (got,) = apply(backbone_variables(weights), preprocess(image[None]))
    assert np.std(expected) > 1
    np.testing.assert_allclose(got[0].transpose(2, 0, 1), expected, atol=1e-4 * np.std(expected))


def test_a_training_starts_from_it(tmp_path):
    tensors = reference.resnet_tensors()
    path = write(tmp_path, tensors)
    before = initialise(MODEL, jax.random.key(0))
    after, line = start_from(path, before, ("a", "b"), width=reference.WIDTH)
    assert line == f"{path} (torchvision's ResNet-50): the backbone is taken"
    before, after = (flatten_dict(variables, sep="/") for variables in (before, after))
    assert before.keys() == after.keys()
    for name, array in after.items():
        taken = name.split("/")[1] == "trunk"
        assert np.array_equal(array, before[name]) != taken, name
    var = after["batch_stats/trunk/layer2_0/downsample/norm/var"]
    np.testing.assert_array_equal(var, tensors["layer2.0.downsample.1.running_var"])


def test_all_stages_are_taken_where_the_model_has_them(tmp_path):
    tensors = reference.resnet_tensors(stages=reference.WHOLE_RESNET)
    path = write(tmp_path, tensors)
    model = tiny.RETINA.clone(backbone="resnet50_whole", width=reference.WIDTH)
    before = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variable_shapes(model))
    how = {"width": reference.WIDTH, "backbone": model.backbone}
    after, _ = start_from(path, before, ("a", "b"), **how)
    for name, array in flatten_dict(after, sep="/").items():
        assert np.any(array) == name.split("/")[1].startswith("trunk"), name
    image = np.random.default_rng(1).integers(0, 256, (70, 70, 3), dtype=np.uint8)
    fed = (image.transpose(2, 0, 1) / 255 - MEAN) / DEVIATION
    whole = ResNet50(functools.partial(ConvBlock, norm="batch"), reference.WIDTH, whole=True)
    trunk = {name: tree["trunk"] for name, tree in after.items()}
    maps = jax.jit(functools.partial(whole.apply, train=False))(trunk, preprocess(image[None]))
    assert [x.shape[1] for x in maps] == [9, 5, 3]
    for stages, got in zip((2, 3, 4), maps, strict=True):
        expected = reference.resnet_forward(tensors, fed, reference.WHOLE_RESNET[:stages])
        np.testing.assert_allclose(got[0].transpose(2, 0, 1), expected, atol=1e-4 * np.std(expected))


def test_a_retinanet_of_other_classes_gives_all_but_its_class_head():
    names = flatten_dict(variable_shapes(tiny.RETINA), sep="/")
    assert {name for name in names if is_of_classes(name)} == {"params/conf/conv/kernel", "params/conf/conv/bias"}


def test_the_other_backbone_is_refused(tmp_path):
    path = write(tmp_path, reference.resnet_tensors())
    variables = initialise(tiny.MODEL, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"trunk/conv1/norm/mean must have no value, as in the model to train; got shape \[4\]"
    ):
        start_from(path, variables, ("a", "b"), width=reference.WIDTH)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("layer2.1.bn2.running_var", None, r"layer2\.1\.bn2\.running_var must have shape \[8\]; got no such tensor"),
        ("layer1.0.conv2.weight", np.zeros((4, 2, 3, 3)), r"must have shape \[4, 4, 3, 3\]; got \[4, 2, 3, 3\]"),
        (
            "layer3.6.conv1.weight",
            np.zeros((8, 16, 1, 1)),
            r"every tensor must be one of the network's; got layer3\.6\.conv1\.weight",
        ),
    ],
    ids=["missing", "grouped, as ResNeXt-50", "deeper, as ResNet-101"],
)
def test_another_resnet_is_refused(tmp_path, name, array, message):
    tensors = reference.resnet_tensors() | {name: array}
    path = write(tmp_path, {name: array for name, array in tensors.items() if array is not None})
    with pytest.raises(ValueError, match=f"as torchvision's ResNet-50, .*{message}"):
        load(path, width=reference.WIDTH)


def test_the_command_describes_it(tmp_path, monkeypatch):
    import ssd_jax.pretrained.__main__ as command

    monkeypatch.setattr(command, "load", functools.partial(load, width=reference.WIDTH))
    path = write(tmp_path, reference.resnet_tensors())
    assert run([str(path)]) == f"{path} is torchvision's ResNet-50; train from it with --config.init_from={path}"
