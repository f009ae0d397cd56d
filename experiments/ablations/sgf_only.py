"""Ablation:   SGF without MAS.

Reproduces: that row of the paper's ablation, in kind: the paper's ISPRS scores are Average 49.13, Last-1 7.01 (mIoU %).
Command:    sgma train experiments/ablations/sgf_only.py --data.path runs/demo/data --workdir runs/ablation_sgf_only
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset without MAS; modality dropout stays."""
    return dataclasses.replace(base, sampling=None)


config = dataclasses.replace(method(demo), name="ablation_sgf_only")
