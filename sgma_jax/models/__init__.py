"""The networks: the only package that knows about Flax's module API."""
