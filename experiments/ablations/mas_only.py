"""Ablation:   MAS without SGF; mean fusion knows no robustness, so every sensor is as likely to be drawn.

Reproduces: that row of the paper's ablation, in kind: the paper's ISPRS scores are Average 62.07, Last-1 29.86 (mIoU
            %).
Command:    sgma train experiments/ablations/mas_only.py --data.path runs/demo/data --workdir runs/ablation_mas_only
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import MeanFusionConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset with mean fusion."""
    return dataclasses.replace(base, model=dataclasses.replace(base.model, fusion=MeanFusionConfig()))


config = dataclasses.replace(method(demo), name="ablation_mas_only")
