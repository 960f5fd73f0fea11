"""Export: python export.py --workdir=DIR --out=FILE is ssd-jax export with the same flags."""

from ssd_jax.cli import program

if __name__ == "__main__":
    program("export")
