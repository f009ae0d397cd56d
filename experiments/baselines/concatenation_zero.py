"""Baseline:   training on complete data, concatenation of the sensors' features, zeros where a sensor is absent.

Reproduces: no paper; it is what is mostly done in practice, on the encoder and head of all others.
Command:    sgma train experiments/baselines/concatenation_zero.py --data.path runs/demo/data --workdir
            runs/concatenation_zero
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import ConcatenationFusionConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset with concatenation, and every sensor in every sample."""
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, modality_dropout=0.0),
        model=dataclasses.replace(base.model, fusion=ConcatenationFusionConfig(absent="zero")),
        sampling=None,
    )


config = dataclasses.replace(method(demo), name="concatenation_zero")
