"""Ablation:   neither SGF nor MAS: the mean of the sensors' features.

Reproduces: that row of the paper's ablation, in kind: the paper's ISPRS scores are Average 46.51, Last-1 2.61 (mIoU %).
Command:    sgma train experiments/ablations/baseline.py --data.path runs/demo/data --workdir runs/ablation_baseline
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import MeanFusionConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset with mean fusion and without MAS; modality dropout stays."""
    return dataclasses.replace(base, model=dataclasses.replace(base.model, fusion=MeanFusionConfig()), sampling=None)


config = dataclasses.replace(method(demo), name="ablation_baseline")
