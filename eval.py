"""Evaluate a run: python eval.py --workdir=runs/shapes is ssd-jax eval with the same flags."""

import sys

from ssd_jax.cli import main

if __name__ == "__main__":
    main(["eval", *sys.argv[1:]])
