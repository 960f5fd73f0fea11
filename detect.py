"""Detect and draw: python detect.py --workdir=runs/shapes --out=DIR is ssd-jax detect with the same flags."""

import sys

from ssd_jax.cli import main

if __name__ == "__main__":
    main(["detect", *sys.argv[1:]])
