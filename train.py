"""Train a detector: python train.py --config=shapes --workdir=runs/shapes is ssd-jax train with the same flags."""

from ssd_jax.cli import program

if __name__ == "__main__":
    program("train")
