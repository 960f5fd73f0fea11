"""Evaluate a run: python eval.py --workdir=runs/shapes is ssd-jax eval with the same flags."""

from ssd_jax.cli import program

if __name__ == "__main__":
    program("eval")
