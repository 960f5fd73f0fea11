"""Published weights: VGG16 trunks and trained SSDs of other projects, as parameters of our model."""

from ssd_jax.pretrained.files import read_tensors
from ssd_jax.pretrained.start import start_from, write_workdir
from ssd_jax.pretrained.weights import Weights, export_torchvision, load

__all__ = ["Weights", "export_torchvision", "load", "read_tensors", "start_from", "write_workdir"]
