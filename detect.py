"""Detect and draw: python detect.py --workdir=runs/shapes --out=DIR is ssd-jax detect with the same flags."""

from ssd_jax.cli import program

if __name__ == "__main__":
    program("detect")
