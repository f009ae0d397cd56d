"""Prediction of whole scenes: `sgma_jax.predict_scene` for rasters of any size, `predict_image` for arrays."""
