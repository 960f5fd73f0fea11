"""python -m ssd_jax COMMAND."""

from ssd_jax.cli import program

if __name__ == "__main__":
    program()
