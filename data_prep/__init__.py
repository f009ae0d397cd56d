"""Converters: one module a data set, each writing what `sgma_jax.data.source` reads."""
