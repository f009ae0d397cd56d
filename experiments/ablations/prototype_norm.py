"""Ablation:   prototypes from class maps as they are, without the softmax over positions.

Reproduces: nothing of the paper, which is silent here; it shows what our choice is worth.
Command:    sgma train experiments/ablations/prototype_norm.py --data.path runs/demo/data --workdir
            runs/ablation_prototype_norm
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import SemanticGuidedFusionConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset with unnormalised class maps."""
    return dataclasses.replace(
        base, model=dataclasses.replace(base.model, fusion=SemanticGuidedFusionConfig(prototype_norm="none"))
    )


config = dataclasses.replace(method(demo), name="ablation_prototype_norm")
