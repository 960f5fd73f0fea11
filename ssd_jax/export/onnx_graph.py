"""A graph of ONNX nodes under construction."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssd_jax.extras import import_extra

OPSET = 17
IR_VERSION = 8  # the first that allows opset 17: older runtimes read it too
PRODUCER = "ssd_jax"


class OnnxGraph:
    """Nodes in the order of computation. A value is the name of what a node returns, or of a constant."""

    def __init__(self) -> None:
        """Begin a graph without nodes.

        Raises:
          ValueError: if the package onnx is not installed.
        """
        self._onnx = import_extra("onnx", "onnx")
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = {}
        self._kernels: dict[tuple[Any, ...], str] = {}  # names of kernels by their content
        self._names: dict[str, int] = {}

    def add(self, op: str, *inputs: str | np.ndarray, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Add a node.

        Args:
          op: an operator of ONNX.
          *inputs: values, "" for an optional one that is left out, or constants.
          name: of the node; made unique, and by default that of the operator.
          outputs: how many values it returns.
          **attributes: of the operator.

        Returns:
          the value, or a tuple of values.
        """
        name = self._unique(name or op)
        results = [name] if outputs == 1 else [f"{name}:{k}" for k in range(outputs)]
        given = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self._nodes.append(self._onnx.helper.make_node(op, given, results, name=name, **attributes))
        return results[0] if outputs == 1 else tuple(results)

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        """Add an array that the graph contains, and return its value.

        A kernel that several nodes have, as where maps share a head, is stored once. A bias is not: in 8 bits it has
        another scale for each input.
        """
        array = np.asarray(array)
        if array.ndim == 4:
            key = (array.dtype, array.shape, hashlib.sha256(array.tobytes()).digest())
            if key in self._kernels:
                return self._kernels[key]
            self._kernels[key] = name = self._unique(name)
        else:
            name = self._unique(name)
        self._constants[name] = array
        return name

    def model(
        self,
        inputs: Mapping[str, tuple[Any, Sequence[int | str]]],
        outputs: Mapping[str, tuple[str, Any, Sequence[int | str]]],
        properties: Mapping[str, str],
    ) -> Any:
        """Return the `onnx.ModelProto` of the nodes that `outputs` need.

        Args:
          inputs: type and shape of each input by name; text stands for an axis of any length.
          outputs: value, type and shape of each output by name.
          properties: the metadata of the model.
        """
        helper = self._onnx.helper
        renamed = [helper.make_node("Identity", [value], [name]) for name, (value, _, _) in outputs.items()]
        nodes = _needed([*self._nodes, *renamed], outputs)
        used = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            PRODUCER,
            [self._described(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
            [self._described(name, dtype, shape) for name, (_, dtype, shape) in outputs.items()],
            [
                self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
                for name, array in self._constants.items()
                if name in used
            ],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
        )
        helper.set_model_props(model, dict(properties))
        self._onnx.checker.check_model(model, full_check=True)
        return model

    def type_number(self, dtype: Any) -> int:
        """Return ONNX's number of a type of NumPy."""
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def _described(self, name: str, dtype: Any, shape: Sequence[int | str]) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self.type_number(dtype), shape)

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"


def _needed(nodes: Sequence[Any], outputs: Iterable[str]) -> list[Any]:
    """Return the nodes that the outputs depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
