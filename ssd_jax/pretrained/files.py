"""Files of weights, whatever their format: names and arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.pretrained.caffe_file import read_caffe
from ssd_jax.pretrained.torch_file import ZIP_START, read_torch

# Where training scripts keep the model's weights beside their optimiser and counters.
WRAPPERS = ("model", "state_dict", "model_state_dict")
PICKLE_START = b"\x80"
NOT_READ = {
    b"\x89HDF": "HDF5; Caffe's .caffemodel of protocol buffers and PyTorch's .pth are read",
    b"\x1f\x8b": "gzip; unpack it first",
    b"BZh": "bzip2; unpack it first",
}


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Return the tensors of a `.pth`, `.safetensors` or `.caffemodel` by name; the content tells which it is.

    Only data is read: a file that holds code is refused, and none of it runs.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: in one line, for one that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file of weights: {path}")
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise ValueError(f"{path} is empty")
    for magic, what in NOT_READ.items():
        if start.startswith(magic):
            raise ValueError(f"{path} is {what}")
    return _reader(start)(path)


def _reader(start: bytes) -> Callable[[Path], dict[str, np.ndarray]]:
    if start.startswith((ZIP_START, PICKLE_START)):
        return lambda path: state_dict(read_torch(path), path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:  # the header's length, and its start
        return read_safetensors
    return read_caffe


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a `.safetensors` by its library; bfloat16 is refused, since NumPy has none."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise ValueError(f"to read {path}, install safetensors: pip install 'ssd_jax[safetensors]'") from None
    try:
        return load_file(path)
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from None


def state_dict(saved: Any, path: Path) -> dict[str, np.ndarray]:
    """Find the model's tensors in what a training script saved."""
    found = saved
    for name in WRAPPERS:
        if isinstance(saved, dict) and isinstance(saved.get(name), dict):
            found = saved[name]
            break
    tensors = {k: v for k, v in found.items() if isinstance(v, np.ndarray)} if isinstance(found, dict) else {}
    if not tensors:
        raise ValueError(f"{path} has no tensors in it: a state dict was expected")
    if all(name.startswith("module.") for name in tensors):  # torch's DataParallel
        tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    return tensors
