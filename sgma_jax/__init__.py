"""SGMA in JAX: semantic segmentation of remote-sensing scenes with missing sensors (arXiv 2603.02505)."""
