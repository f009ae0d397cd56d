"""What a run shows: progress, metrics, tables and pictures. Imports numpy, rich, matplotlib and tensorboardX; never jax."""
