"""Progress, tables and pictures. Nothing here imports jax."""
