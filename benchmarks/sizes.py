"""Count the parameters and multiplications of every named model, as a table: `python -m benchmarks.sizes`.

A multiplication is one of a convolution's; biases, activations and BatchNorm are not counted.
"""

import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from ssd_jax.box import make_priors
from ssd_jax.model import MODELS, make, variable_shapes


def multiplications(jaxpr: Any) -> int:
    """Count the multiplications of the convolutions and matrix products of a program, and of those it calls."""
    total = 0
    for equation in jaxpr.eqns:
        out, *ins = (v.aval for v in (equation.outvars[0], *equation.invars))
        if equation.primitive.name == "conv_general_dilated":
            kernel = math.prod(ins[1].shape) // ins[1].shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(out.shape) * kernel
        elif equation.primitive.name == "dot_general":
            contracted, _ = equation.params["dimension_numbers"]
            total += math.prod(out.shape) * math.prod(ins[0].shape[axis] for axis in contracted[0])
        for inner in jaxprs_in_params(equation.params):
            total += multiplications(inner)
    return total


def row(name: str, num_classes: int) -> str:
    """Return the row of a model: side of the image, priors, millions of parameters, billions of multiplications."""
    model = make(name, num_classes, portable=True)
    size, variables = model.spec.image_size, variable_shapes(model)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    program = jax.make_jaxpr(model.apply)(variables, images)
    parameters = [
        sum(x.size for x in jax.tree.leaves(tree)) for tree in (variables["params"], variables["params"]["trunk"])
    ]
    whole, backbone = (f"{n / 1e6:.2f}" for n in parameters)
    cost = f"{multiplications(program.jaxpr) / 1e9:.2f}"
    return f"| `{name}` | {size} | {len(make_priors(model.spec)):,} | {whole} | {backbone} | {cost} |"


def main() -> None:
    """Print the table for the 20 classes of VOC, or for as many as the first argument says."""
    classes = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(f"| name | pixels | priors | parameters, {classes} classes (10^6) | of the backbone | GMAC an image |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        print(row(name, 1 + classes))


if __name__ == "__main__":
    main()
