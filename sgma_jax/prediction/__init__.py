"""Prediction of whole scenes: `predict_scene` for rasters of any size, `predict_image` for arrays."""

from sgma_jax.prediction.arrays import Prediction as Prediction
from sgma_jax.prediction.arrays import predict_image as predict_image
from sgma_jax.prediction.network import Run as Run
from sgma_jax.prediction.options import PredictOptions as PredictOptions
from sgma_jax.prediction.predict import merge_shards as merge_shards
from sgma_jax.prediction.predict import predict_scene as predict_scene
