"""Ablation:   SGF and MAS, the whole method.

Reproduces: that row of the paper's ablation, in kind: the paper's ISPRS scores are Average 79.55, Last-1 57.05 (mIoU
            %).
Command:    sgma train experiments/ablations/sgma.py --data.path runs/demo/data --workdir runs/ablation_sgma
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset as it is."""
    return base


config = dataclasses.replace(method(demo), name="ablation_sgma")
