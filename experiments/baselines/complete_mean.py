"""Baseline:   training on complete data, mean of the sensors' features, no sampling.

Reproduces: in kind the row "baseline" of the paper's ablation (arXiv 2603.02505), if that row was trained without
            modality dropout; its ISPRS scores are Average 46.51, Last-1 2.61 (mIoU %).
Command:    sgma train experiments/baselines/complete_mean.py --data.path runs/demo/data --workdir runs/complete_mean
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import MeanFusionConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset with mean fusion, and every sensor in every sample."""
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, modality_dropout=0.0),
        model=dataclasses.replace(base.model, fusion=MeanFusionConfig()),
        sampling=None,
    )


config = dataclasses.replace(method(demo), name="complete_mean")
