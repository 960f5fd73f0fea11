"""A function of JAX as nodes of an ONNX graph: its jaxpr, equation by equation.

Maps [B, H, W, C] are kept as ONNX's convolutions want them, [B, C, H, W]. What depends on constants alone is computed
here, and a factor or term that follows a convolution becomes part of its kernel and bias. Where a function has a form
for each platform, the graph gets that for all others.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from ssd_jax.export.onnx_graph import OnnxGraph

CHANNELS_FIRST = (0, 3, 1, 2)  # axis k of a map in the graph is this axis of it in the jaxpr
CHANNELS_LAST = (0, 2, 3, 1)

Shape = Sequence[Any]  # an axis that is no number may have any length


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution that can still take a factor or term into its kernel and bias."""

    x: str
    kernel: np.ndarray  # [O, I, h, w]
    bias: np.ndarray  # [O]
    attributes: dict[str, Any]
    name: str
    op: str = "Conv"  # or "ConvTranspose", which wants its kernel as [I, O, h, w]


@dataclasses.dataclass(eq=False)
class Value:
    """An array of the jaxpr that the graph computes.

    Attributes:
      make: adds its node to the graph and returns its name there; called if something needs it.
      shape: of the jaxpr's axes; one of length 1 may stand for a longer one, to which an elementwise operator
        stretches it.
      dtype: in the graph.
      first: whether the graph has it as [B, C, H, W].
      convolution: what it is, if it is a convolution.
      compared: ("lt" or "gt", value, constant), if it is such a comparison.
      upper: (value, bound), if it is the lesser of both.
    """

    make: Callable[[], str]
    shape: Shape
    dtype: np.dtype
    first: bool = False
    convolution: Convolution | None = None
    compared: tuple[str, "Value", np.ndarray] | None = None
    upper: tuple["Value", np.ndarray] | None = None

    @cached_property
    def name(self) -> str:
        """Return its name in the graph."""
        return self.make()


Operand = Value | np.ndarray


class Lowering:
    """Adds functions of JAX to a graph."""

    def __init__(self, graph: OnnxGraph) -> None:
        """Add to `graph`."""
        self.graph = graph
        self._paths: dict[int, str] = {}

    def __call__(self, function: Callable[..., Any], constants: Any, *inputs: Value) -> list[Value]:
        """Lower `function(constants, *inputs)`, and return its results.

        bfloat16 becomes float16, which more runtimes know.

        Args:
          function: of JAX; returns arrays.
          constants: a tree of NumPy arrays, which the graph will contain under their paths.
          *inputs: of the graph.

        Raises:
          ValueError: for an operation that has no lowering.
        """
        shapes = (jax.ShapeDtypeStruct(tuple(value.shape), value.dtype) for value in inputs)
        jaxpr = jax.make_jaxpr(function)(constants, *shapes)
        leaves = jax.tree_util.tree_leaves_with_path(constants)
        self._paths |= {id(array): _path(keys) for keys, array in leaves}
        results = self._run(jaxpr, [*(array for _, array in leaves), *inputs])
        shapes = (aval.shape for aval in jaxpr.out_avals)
        return [self.natural(result, shape) for result, shape in zip(results, shapes, strict=True)]

    def path(self, array: np.ndarray) -> str:
        """Return where in the constants an array stands: "trunk/conv1_1/conv/kernel"; "" for another array."""
        return self._paths.get(id(array), "")

    def new(
        self, op: str, *inputs: str | np.ndarray, shape: Shape, dtype: Any, first: bool = False, **rest: Any
    ) -> Value:
        """Add a node, and return its value."""
        name = self.graph.add(op, *inputs, **rest)
        return Value(lambda: name, shape, np.dtype(dtype), first)

    def natural(self, operand: Operand, shape: Shape) -> Value:
        """Return a value of this shape whose axes the graph has in the jaxpr's order."""
        if isinstance(operand, np.ndarray):
            name = self.graph.constant(np.broadcast_to(operand, _numbers(shape)))
            return Value(lambda: name, shape, operand.dtype)
        if operand.first:
            name = self.graph.add("Transpose", operand.name, perm=CHANNELS_LAST)
            operand = Value(lambda: name, operand.shape, operand.dtype)
        if tuple(operand.shape) == tuple(shape):
            return operand
        lengths = np.array([length if isinstance(length, int) else 1 for length in shape], np.int64)
        return self.new("Expand", operand.name, lengths, shape=shape, dtype=operand.dtype)

    def channels_first(self, value: Value) -> Value:
        """Return a value of four axes that the graph has as [B, C, H, W]."""
        if value.first:
            return value
        name = self.graph.add("Transpose", value.name, perm=CHANNELS_FIRST)
        return Value(lambda: name, value.shape, value.dtype, first=True)

    def _run(self, closed: Any, arguments: Sequence[Operand]) -> list[Operand]:
        jaxpr = closed.jaxpr
        known: dict[Any, Operand] = dict(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
        known |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Operand:
            aval: Any = atom.aval
            return np.asarray(atom.val, aval.dtype) if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            results = self._lower(equation, [read(atom) for atom in equation.invars])
            known |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _lower(self, equation: Any, inputs: list[Operand]) -> Sequence[Operand]:
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            return self._run(params[CALLS[name]], inputs)
        if name == "platform_index":
            return [np.asarray([platforms is None for platforms in params["platforms"]].index(True))]
        if name == "cond" and isinstance(inputs[0], np.ndarray):
            return self._run(params["branches"][int(inputs[0])], inputs[1:])
        shapes = [atom.aval.shape for atom in equation.invars]
        if all(isinstance(value, np.ndarray) for value in inputs):
            return _fold(equation, inputs, shapes)
        if name not in LOWERINGS:
            raise ValueError(f"an operation must be one of {', '.join(LOWERINGS)} to be exported as ONNX; got {name}")
        result = LOWERINGS[name](self, inputs, shapes, equation.outvars[0].aval.shape, params)
        return result if isinstance(result, list) else [result]


CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


# Constants. A constant may have axes of length 1 where the jaxpr has longer ones, as a value may.


def _dtype(dtype: Any) -> np.dtype:
    return np.dtype(np.float16) if dtype == jax.numpy.bfloat16 else np.dtype(dtype)


def _fold(equation: Any, inputs: Sequence[Any], shapes: Any) -> list[np.ndarray]:
    name, params, out = equation.primitive.name, equation.params, equation.outvars[0].aval
    if name == "broadcast_in_dim":
        lengths = dict(zip(params["broadcast_dimensions"], inputs[0].shape, strict=True))
        return [inputs[0].reshape([lengths.get(axis, 1) for axis in range(len(out.shape))])]
    if name in FOLDINGS:
        return [np.asarray(FOLDINGS[name](*inputs)).astype(_dtype(out.dtype))]
    whole = [np.broadcast_to(array, _numbers(shape)) for array, shape in zip(inputs, shapes, strict=True)]
    if name == "reshape":
        return [whole[0].reshape(out.shape)]
    results = equation.primitive.bind(*whole, **params)
    return [np.asarray(result) for result in (results if equation.primitive.multiple_results else [results])]


FOLDINGS: dict[str, Callable[..., Any]] = {  # what a model has for each layer; XLA would compile each shape
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "convert_element_type": np.asarray,
}


# Values.


def _aligned(low: Lowering, inputs: Sequence[Operand]) -> tuple[list[str | np.ndarray], bool]:
    """Return the operands of an elementwise operator in one layout, and whether it is channels first."""
    first = any(isinstance(value, Value) and value.first for value in inputs)
    dtype = next(value.dtype for value in inputs if isinstance(value, Value) and value.dtype != bool)
    aligned: list[str | np.ndarray] = []
    for value in inputs:
        if isinstance(value, Value):
            aligned.append((low.channels_first(value) if first else value).name)
        else:
            array = value.transpose(CHANNELS_FIRST) if first and value.ndim == 4 else value
            aligned.append(array if array.dtype == bool else array.astype(dtype))
    return aligned, first


def _stretched(inputs: Sequence[Operand], rank: int) -> Shape:
    """Return the shape of an elementwise result from the shapes that the operands have in the graph."""
    shapes = [value.shape for value in inputs if len(value.shape) == rank]
    return tuple(next((n for n in axis if not _is_one(n)), 1) for axis in zip(*shapes, strict=True))


def _is_one(length: Any) -> bool:
    return isinstance(length, int) and length == 1


def _elementwise(op: str, dtype: Any = None) -> Callable[..., Value]:
    def lower(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
        names, first = _aligned(low, inputs)
        kind = dtype or next(value.dtype for value in inputs if isinstance(value, Value) and value.dtype != bool)
        return low.new(op, *names, shape=_stretched(inputs, len(shape)), dtype=kind, first=first)

    return lower


def _affine(op: str) -> Callable[..., Value]:
    """Add, subtract or multiply; a constant for each channel becomes part of a convolution before it."""

    def lower(low: Lowering, inputs: Sequence[Operand], *rest: Any) -> Value:
        convolution, constant = _convolution_and_constant(inputs, commutes=op != "Sub")
        if convolution is None or constant is None:
            return _elementwise(op)(low, inputs, *rest)
        kernel, bias = convolution.kernel, convolution.bias
        if op == "Mul":
            kernel, bias = kernel * constant[:, None, None, None], bias * constant
        else:
            bias = bias + constant if op == "Add" else bias - constant
        value = next(value for value in inputs if isinstance(value, Value))
        folded = dataclasses.replace(convolution, kernel=kernel, bias=bias)
        return _convolution_value(low, folded, value.shape, value.dtype)

    return lower


def _convolution_and_constant(
    inputs: Sequence[Operand], *, commutes: bool
) -> tuple[Convolution | None, np.ndarray | None]:
    for value, other in (inputs, inputs[::-1]) if commutes else (inputs,):
        if not isinstance(value, Value) or not value.convolution or not isinstance(other, np.ndarray):
            continue
        if other.ndim == 0 or other.size == other.shape[-1]:
            return value.convolution, np.broadcast_to(other.ravel(), value.convolution.bias.shape)
    return None, None


def _convolution_value(low: Lowering, convolution: Convolution, shape: Shape, dtype: np.dtype) -> Value:
    def make() -> str:
        kernel, bias = (array.astype(dtype) for array in (convolution.kernel, convolution.bias))
        if convolution.op == "ConvTranspose":
            kernel = kernel.swapaxes(0, 1)
        arrays = (
            low.graph.constant(array, f"{convolution.name}/{name}")
            for name, array in (("kernel", kernel), ("bias", bias))
        )
        return low.graph.add(convolution.op, convolution.x, *arrays, name=convolution.name, **convolution.attributes)

    return Value(make, shape, dtype, True, convolution=convolution)


def _convolve(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    x, kernel = inputs
    numbers = params["dimension_numbers"]
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    if (
        not isinstance(x, Value)
        or not isinstance(kernel, np.ndarray)
        or specs != (CHANNELS_FIRST, (3, 2, 0, 1), CHANNELS_FIRST)
    ):
        raise ValueError(
            f"a convolution must be of NHWC maps with a constant HWIO kernel to be exported; got {numbers}"
        )
    if params["batch_group_count"] != 1:
        raise ValueError("a convolution must have no batch groups to be exported as ONNX")
    (top, bottom), (left, right) = params["padding"]
    attributes = {
        "kernel_shape": kernel.shape[:2],
        "strides": params["window_strides"],
        "pads": (top, left, bottom, right),
        "dilations": params["rhs_dilation"],
        "group": params["feature_group_count"],
    }
    op, name = "Conv", low.path(kernel).removesuffix("/kernel") or "conv"
    if set(params["lhs_dilation"]) != {1}:
        op, kernel = "ConvTranspose", kernel[::-1, ::-1]
        attributes |= _transposed(params, kernel.shape[:2])
    wide = kernel.transpose(3, 2, 0, 1).astype(np.float64)
    first = low.channels_first(x)
    convolution = Convolution(first.name, wide, np.zeros(len(wide)), attributes, name, op)
    return _convolution_value(low, convolution, shape, x.dtype)


def _transposed(params: Any, sides: Sequence[int]) -> dict[str, Any]:
    """Return the attributes of a convolution of an input between whose pixels zeros stand, as a transposed one.

    Its kernel is turned. Where the convolution pads with more zeros than its kernel reaches, the output has so many
    more rows or columns.

    Args:
      params: of the convolution.
      sides: of the kernel, pixels.
    """
    reaches = [dilation * (side - 1) for side, dilation in zip(sides, params["rhs_dilation"], strict=True)]
    cut = [(reach - before, reach - after) for reach, (before, after) in zip(reaches, params["padding"], strict=True)]
    if set(params["window_strides"]) != {1} or params["feature_group_count"] != 1 or min(a for a, _ in cut) < 0:
        raise ValueError(
            "a transposed convolution must have no groups, no strides between its outputs and no more padding before "
            f"the input than its kernel reaches to be exported as ONNX; got {params['padding']}"
        )
    return {
        "strides": params["lhs_dilation"],
        "pads": (*(before for before, _ in cut), *(max(after, 0) for _, after in cut)),
        "output_padding": tuple(max(-after, 0) for _, after in cut),
    }


def _pool(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    (x,) = inputs
    window, strides, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    dilations = (*params["base_dilation"], *params["window_dilation"])
    if not isinstance(x, Value) or len(window) != 4 or {window[0], window[3], *dilations} != {1}:
        raise ValueError(f"a pooling must be of the rows and columns of NHWC maps to be exported; got {window}")
    pads = (padding[1][0], padding[2][0], padding[1][1], padding[2][1])
    attributes = {"kernel_shape": window[1:3], "strides": strides[1:3], "pads": pads}
    return low.new("MaxPool", low.channels_first(x).name, shape=shape, dtype=x.dtype, first=True, **attributes)


def _largest(low: Lowering, inputs: Sequence[Operand], *rest: Any) -> Value:
    for value, other in (inputs, inputs[::-1]):
        if isinstance(other, np.ndarray) and not other.any() and isinstance(value, Value):
            return low.new("Relu", value.name, shape=value.shape, dtype=value.dtype, first=value.first)
    return _elementwise("Max")(low, inputs, *rest)


def _compare(kind: str) -> Callable[..., Value]:
    def lower(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
        value, bound = inputs
        ops = {"lt": "Less", "gt": "Greater"}
        make = lambda: _elementwise(ops[kind], bool)(low, inputs, shapes, shape, params).name  # noqa: E731
        first = any(isinstance(operand, Value) and operand.first for operand in inputs)
        compared = None
        if isinstance(value, Value) and isinstance(bound, np.ndarray) and bound.size == 1:
            compared = (kind, value, bound)
        return Value(make, _stretched(inputs, len(shape)), np.dtype(bool), first, compared=compared)

    return lower


def _select(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    """Choose between two arrays; `where(x < low, low, where(x > high, high, x))` becomes one Clip."""
    which, no, yes = inputs
    kind, x, bound = (which.compared if isinstance(which, Value) else None) or (None, None, None)
    if bound is not None and isinstance(x, Value) and isinstance(no, Value) and _same(yes, bound):
        limit = bound.ravel()[0].astype(x.dtype)
        if kind == "gt" and no is x:
            make = lambda: low.graph.add("Clip", x.name, "", limit)  # noqa: E731
            return Value(make, x.shape, x.dtype, x.first, upper=(x, limit))
        if kind == "lt" and no.upper and no.upper[0] is x:
            return low.new("Clip", x.name, limit, no.upper[1], shape=x.shape, dtype=x.dtype, first=x.first)
    names, first = _aligned(low, [which, yes, no])
    dtype = next(value.dtype for value in (yes, no) if isinstance(value, Value))
    return low.new("Where", *names, shape=_stretched(inputs, len(shape)), dtype=dtype, first=first)


def _same(operand: Operand, constant: np.ndarray) -> bool:
    return isinstance(operand, np.ndarray) and operand.size == 1 and operand.ravel()[0] == constant.ravel()[0]


def _convert(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    (x,), dtype = inputs, _dtype(params["new_dtype"])
    assert isinstance(x, Value)
    if x.dtype == dtype:
        return x
    kind = low.graph.type_number(dtype)
    return low.new("Cast", x.name, shape=x.shape, dtype=dtype, first=x.first, to=kind)


def _reduce(op: str) -> Callable[..., Value]:
    def lower(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
        (x,), axes = inputs, params["axes"]
        assert isinstance(x, Value)
        left = [axis for axis in CHANNELS_FIRST if axis not in axes]
        if x.first and left == sorted(left):  # the axes that stay are in the same order in both layouts
            axes = [CHANNELS_FIRST.index(axis) for axis in axes]
        else:
            x = low.natural(x, shapes[0])
        if op == "ReduceSum":
            return low.new(op, x.name, np.array(axes, np.int64), shape=shape, dtype=x.dtype, keepdims=0)
        return low.new(op, x.name, shape=shape, dtype=x.dtype, axes=axes, keepdims=0)

    return lower


def _broadcast(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    """Insert axes of length 1, which elementwise operators stretch."""
    (x,), axes = inputs, list(params["broadcast_dimensions"])
    assert isinstance(x, Value)
    lengths = dict(zip(axes, x.shape, strict=True))
    lazy = tuple(lengths.get(axis, 1) for axis in range(len(shape)))
    if len(axes) == len(shape):
        return Value(lambda: x.name, lazy, x.dtype, x.first) if tuple(x.shape) != lazy else x
    first = len(shape) == 4 and [axis for axis in CHANNELS_FIRST if axis in axes] == axes
    order = CHANNELS_FIRST if first else range(len(shape))
    inserted = [k for k, axis in enumerate(order) if axis not in axes]
    name = low.natural(x, x.shape).name
    return low.new("Unsqueeze", name, np.array(inserted, np.int64), shape=lazy, dtype=x.dtype, first=first)


def _reshape(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    kept = [axis for axis, length in enumerate(shape) if not _is_one(length)]
    if [shape[axis] for axis in kept] == list(shapes[0]):  # axes of length 1 are inserted
        return _broadcast(low, inputs, shapes, shape, {"broadcast_dimensions": kept})
    x = low.natural(inputs[0], shapes[0])
    lengths = [length if isinstance(length, int) else -1 for length in shape]
    return low.new("Reshape", x.name, np.array(lengths, np.int64), shape=shape, dtype=x.dtype)


def _squeeze(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    x = low.natural(inputs[0], shapes[0])
    axes = np.array(params["dimensions"], np.int64)
    return low.new("Squeeze", x.name, axes, shape=shape, dtype=x.dtype)


def _slice(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    x = low.natural(inputs[0], shapes[0])
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    cut = [k for k in range(len(starts)) if (starts[k], limits[k], strides[k]) != (0, shapes[0][k], 1)]
    bounds = (np.array([part[k] for k in cut], np.int64) for part in (starts, limits, range(len(starts)), strides))
    return low.new("Slice", x.name, *bounds, shape=shape, dtype=x.dtype)


def _transpose(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    x = low.natural(inputs[0], shapes[0])
    return low.new("Transpose", x.name, shape=shape, dtype=x.dtype, perm=params["permutation"])


def _concatenate(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    values, axis = [low.natural(*pair) for pair in zip(inputs, shapes, strict=True)], params["dimension"]
    return low.new("Concat", *(value.name for value in values), shape=shape, dtype=values[0].dtype, axis=axis)


def _stack(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    values = [low.natural(*pair) for pair in zip(inputs, shapes, strict=True)]
    axis = np.array([params["axis"]], np.int64)
    names = (low.graph.add("Unsqueeze", value.name, axis) for value in values)
    return low.new("Concat", *names, shape=shape, dtype=values[0].dtype, axis=params["axis"])


def _unstack(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> list[Value]:
    x, axis = low.natural(inputs[0], shapes[0]), params["axis"]
    places = (np.array(k, np.int64) for k in range(shapes[0][axis]))
    return [low.new("Gather", x.name, k, shape=shape, dtype=x.dtype, axis=axis) for k in places]


def _square(low: Lowering, inputs: Sequence[Operand], *rest: Any) -> Value:
    return _elementwise("Mul")(low, [*inputs, *inputs], *rest)


def _power(low: Lowering, inputs: Sequence[Operand], shapes: Any, shape: Shape, params: Any) -> Value:
    return _elementwise("Pow")(low, [*inputs, np.asarray(params["y"])], shapes, shape, params)


def _reciprocal_root(low: Lowering, inputs: Sequence[Operand], *rest: Any) -> Value:
    return _elementwise("Reciprocal")(low, [_elementwise("Sqrt")(low, inputs, *rest)], *rest)


def _path(keys: Any) -> str:
    """Write a place in a tree of variables as text, without its collection: "trunk/conv1_1/conv/kernel"."""
    return "/".join(str(key.key) for key in keys[1:])


def _numbers(shape: Shape) -> list[int]:
    if not all(isinstance(length, int) for length in shape):
        raise ValueError(f"a constant must have a fixed shape to be exported as ONNX; got {list(shape)}")
    return [int(length) for length in shape]


LOWERINGS: dict[str, Callable[..., Value | list[Value]]] = {
    "add": _affine("Add"),
    "sub": _affine("Sub"),
    "mul": _affine("Mul"),
    "div": _elementwise("Div"),
    "min": _elementwise("Min"),
    "max": _largest,
    "neg": _elementwise("Neg"),
    "exp": _elementwise("Exp"),
    "log": _elementwise("Log"),
    "sqrt": _elementwise("Sqrt"),
    "rsqrt": _reciprocal_root,
    "square": _square,
    "integer_pow": _power,
    "logistic": _elementwise("Sigmoid"),
    "tanh": _elementwise("Tanh"),
    "lt": _compare("lt"),
    "gt": _compare("gt"),
    "select_n": _select,
    "convert_element_type": _convert,
    "conv_general_dilated": _convolve,
    "reduce_window_max": _pool,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "slice": _slice,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
}
