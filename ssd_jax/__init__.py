"""SSD (Single Shot MultiBox Detector, arXiv:1512.02325) for JAX.

Importing the package runs no JAX code: import the room you need, such as `ssd_jax.box` or `ssd_jax.inference`.
"""

__version__ = "0.1.0"
