"""The command lines of `loop`: flags in, one call out.

JAX is imported after the flags were read, so that --help is fast.
"""
