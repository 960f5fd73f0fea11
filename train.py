"""Train a detector: python train.py --config=shapes --workdir=runs/shapes is ssd-jax train with the same flags."""

import sys

from ssd_jax.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
