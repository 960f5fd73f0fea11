"""What a model is made of: layers, shapes, parameters and multiplications."""

import math
from typing import NamedTuple

import flax.linen as nn

from ssd_jax.model.ssd import SSD, variable_shapes


class Layer(NamedTuple):
    """One layer of a network, for one image."""

    name: str
    shape: tuple[int, ...]  # of its output, without the batch
    parameters: int
    macs: int  # multiplications with an addition; only convolutions count


def summarize(model: SSD) -> list[Layer]:
    """List a model's layers that have parameters, in the order in which they run."""
    layers: list[Layer] = []

    def note(call, args, kwargs, context):
        output = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and "params" in module.variables and not _has_children(module):
            sizes = {name: math.prod(array.shape) for name, array in module.variables["params"].items()}
            shape = output.shape[1:]
            places = math.prod(shape[:-1])
            macs = places * sizes["kernel"] if isinstance(module, nn.Conv) else 0
            layers.append(Layer("/".join(module.path), shape, sum(sizes.values()), macs))
        return output

    with nn.intercept_methods(note):
        variable_shapes(model)
    return layers


def _has_children(module: nn.Module) -> bool:
    return any(isinstance(value, dict) for value in module.variables["params"].values())


def table(layers: list[Layer]) -> str:
    """Lay the layers out as text, with their sums."""
    width = max(len(layer.name) for layer in layers)
    lines = [f"{'layer':<{width}}  {'output':>14}  {'parameters':>11}  {'GMACs':>8}"]
    for name, shape, parameters, macs in layers:
        lines.append(f"{name:<{width}}  {'x'.join(map(str, shape)):>14}  {parameters:>11,}  {macs / 1e9:>8.4f}")
    parameters, macs = (sum(getattr(layer, field) for layer in layers) for field in ("parameters", "macs"))
    return "\n".join([*lines, f"{'all':<{width}}  {'':>14}  {parameters:>11,}  {macs / 1e9:>8.4f}"])
