"""Ablation:   a semantic filter of its own for every sensor.

Reproduces: nothing of the paper, whose filter is shared; it shows what sharing is worth.
Command:    sgma train experiments/ablations/semantic_filter.py --data.path runs/demo/data --workdir
            runs/ablation_semantic_filter
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import SemanticGuidedFusionConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset with separate filters."""
    return dataclasses.replace(
        base, model=dataclasses.replace(base.model, fusion=SemanticGuidedFusionConfig(semantic_filter="separate"))
    )


config = dataclasses.replace(method(demo), name="ablation_semantic_filter")
