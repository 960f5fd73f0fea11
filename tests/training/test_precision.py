"""The types and the matmul precision of a bfloat16 training step, as docs/accelerators.md has them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny
from jax.lax import Precision

import ssd_jax
from ssd_jax.augment import AugmentOptions
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax mixes integers and floats in its schedules
PACKAGE = Path(ssd_jax.__file__).parent
PRODUCTS = ("dot_general", "conv_general_dilated")


def equations(jaxpr):
    """Yield every equation of a traced program, those of inner functions too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def places(equation):
    """Return the files of our package that led to an equation, relative to it, the innermost first."""
    files = (Path(frame.file_name) for frame in equation.source_info.traceback.frames)
    return [file.relative_to(PACKAGE).as_posix() for file in files if PACKAGE in file.parents]


@pytest.fixture(scope="module")
def traced():
    model, optimizer = tiny.SHORT.clone(dtype="bfloat16"), tiny.sgd()
    step = tiny.train_step(optimizer, model=model, options=AugmentOptions())
    state = create_state.eval_shape(jax.random.key(0), model, optimizer)
    program = jax.make_jaxpr(step)(state, tiny.first_batch(tiny.Images(), 2), jax.random.key(1))
    return [(equation, places(equation)) for equation in equations(program.jaxpr)]


def products(traced, room):
    """Return the types and the precisions of the matrix products and convolutions of a room."""
    chosen = [e for e, files in traced if e.primitive.name in PRODUCTS and files[0].startswith(room)]
    precisions = {p for e in chosen for p in (e.params["precision"] or (Precision.DEFAULT,) * 2)}
    return {v.aval.dtype for e in chosen for v in e.invars}, precisions


def test_the_augmentation_asks_for_three_passes(traced):
    assert products(traced, "augment") == ({jnp.dtype("float32")}, {Precision.HIGH})


def test_the_network_asks_for_the_default(traced):
    types, precisions = products(traced, "model")
    assert precisions == {Precision.DEFAULT}
    assert types == {jnp.dtype("float32"), jnp.dtype("bfloat16")}  # the heads, and the rest


def test_no_other_room_has_a_matrix_product(traced):
    rooms = {files[0].split("/")[0] for e, files in traced if e.primitive.name in PRODUCTS}
    assert rooms == {"augment", "model"}


@pytest.mark.parametrize("room", ["augment/", "box/", "loss.py"])
def test_nothing_but_the_network_is_rounded_to_bfloat16(traced, room):
    inside = [
        e
        for e, files in traced
        if files and files[0].startswith(room) and not any(f.startswith("model/") for f in files)
    ]
    types = {str(v.aval.dtype) for e in inside for v in e.outvars}
    assert "bfloat16" not in types
    assert "float32" in types
