"""python -m ssd_jax COMMAND."""

from ssd_jax.cli import main

if __name__ == "__main__":
    main()
