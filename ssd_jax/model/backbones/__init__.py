"""Backbones: networks that turn images into the first feature maps of an SSD."""
