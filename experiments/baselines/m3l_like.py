"""Baseline after M3L: modality dropout, and a learned stand-in for the features of an absent sensor.

Reproduces: in kind Maheshwari, Liu, Kira, "Missing Modality Robustness in Semi-Supervised Multi-Modal Semantic
            Segmentation" (WACV 2024, arXiv 2304.10756): its linear fusion and masked sensors. Left out: the mean
            teacher and unlabelled data. In the SGMA paper M3L has on ISPRS Average 54.12, Last-1 10.41 (mIoU %).
Command:    sgma train experiments/baselines/m3l_like.py --data.path runs/demo/data --workdir runs/m3l_like
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import ConcatenationFusionConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset, with its modality dropout, and concatenation with learned stand-ins."""
    return dataclasses.replace(
        base, model=dataclasses.replace(base.model, fusion=ConcatenationFusionConfig(absent="learned")), sampling=None
    )


config = dataclasses.replace(method(demo), name="m3l_like")
