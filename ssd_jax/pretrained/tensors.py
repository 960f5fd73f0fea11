"""Files of weights in any format, as arrays by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssd_jax.pretrained.caffe_file import read_caffe
from ssd_jax.pretrained.torch_file import ZIP_START, read_torch

PICKLE_START = b"\x80"
NOT_READ = {
    b"\x89HDF": "HDF5; of Caffe's two formats, protocol buffers are read",
    b"\x1f\x8b": "gzip; unpack it first",
    b"BZh": "bzip2; unpack it first",
}
# What torch.compile, DataParallel and Lightning put before the name of every tensor.
PREFIXES = ("_orig_mod.", "module.", "model.")
COUNTER = "n_averaged"  # what torch's AveragedModel adds beside its "module."


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a `.pth`, `.safetensors` or `.caffemodel`; the content tells which it is.

    Reads data only: a file that holds code is refused, and none of it runs. Prefixes that all names share, such as
    "module.", are removed.

    Returns:
      arrays by name, in the order of the file; they may be read-only.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: in one line that names the file, for one that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights")
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise ValueError(f"{path}: a file of weights must have tensors; got an empty file")
    for magic, what in NOT_READ.items():
        if start.startswith(magic):
            raise ValueError(f"{path}: a file of weights must be a .pth, .safetensors or .caffemodel; got {what}")
    tensors = _reader(start)(path)
    for name, array in tensors.items():
        if not name.isprintable():
            raise ValueError(f"{path}: names of tensors must be printable; got {name[:100]!r}")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{path}: tensors must be of real numbers; got {name} of type {array.dtype}")
    return without_prefixes(tensors)


def without_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove the `PREFIXES` that all names share, one after another, and `COUNTER` beside them."""
    while names := tensors.keys() - {COUNTER}:
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in names)), "")
        if not prefix:
            break
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items() if name != COUNTER}
    return tensors


def _reader(start: bytes) -> Callable[[Path], dict[str, np.ndarray]]:
    if start.startswith((ZIP_START, PICKLE_START)):
        return read_torch
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:  # the header's length, and its start
        return read_safetensors
    return read_caffe


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a `.safetensors` with the library of that name.

    Raises:
      ValueError: in one line that names the file, for one that is damaged, or that has a type which NumPy lacks.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise ValueError(f"{path}: safetensors must be installed: pip install 'ssd_jax[safetensors]'") from None
    try:
        tensors = load_file(path)
        # A bfloat16 is not one of NumPy's types: libraries beside it define it.
        return {name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for name, a in tensors.items()}
    except (KeyError, TypeError, AttributeError) as error:  # the library looks the type's name up
        raise ValueError(f"{path}: tensors must be of a type that NumPy has; got {error}") from None
    except (SafetensorError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: a .safetensors must be whole; got one that is damaged ({detail})") from None
