"""From a converted data set to batches. Nothing in here imports jax: Grain's workers must not touch an accelerator."""
