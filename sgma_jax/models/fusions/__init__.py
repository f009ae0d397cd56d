"""Fusions: the sensors' feature maps of one scale in, one map out."""
