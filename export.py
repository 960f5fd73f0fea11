"""Export: python export.py --workdir=DIR --out=FILE is ssd-jax export with the same flags."""

import sys

from ssd_jax.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
