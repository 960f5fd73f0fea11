"""A run from start to end: the only room that sees the config, the disk and the devices."""
