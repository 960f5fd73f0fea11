"""A detector whose scores are spread: a network just drawn gives ties, which two programs may order in two ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssd_jax.inference import Detector


def spread_variables(model):
    random, size = np.random.default_rng(0), model.spec.image_size
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    statistics = jax.tree.map(lambda x: x + random.random(x.shape, np.float32), variables["batch_stats"])
    first = statistics["trunk"]["conv1"]["norm"]
    first["var"] *= 1000  # of pixels; the others are of features
    return {"params": variables["params"], "batch_stats": statistics}


@pytest.fixture(scope="session")
def detector():
    """It keeps about one in a hundred of its scores."""
    return Detector(
        tiny.SHORT,
        spread_variables(tiny.SHORT),
        ("bright", "dark"),
        step=7,
        batch_size=4,
        score_threshold=np.float32(0.5),
    )


@pytest.fixture(scope="session")
def dssd():
    """A narrow DSSD, which keeps about one in a hundred of its scores."""
    return Detector(
        tiny.DSSD, spread_variables(tiny.DSSD), ("bright", "dark"), score_threshold=np.float32(0.375), batch_size=2
    )


@pytest.fixture(scope="session")
def retina():
    """A narrow RetinaNet, which keeps about one in a hundred of its scores."""
    return Detector(
        tiny.RETINA, spread_variables(tiny.RETINA), ("bright", "dark"), score_threshold=np.float32(0.04), batch_size=2
    )
