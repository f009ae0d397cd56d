"""Baseline after IMLT: a learned fusion token, random subsets of sensors, contrastive alignment and masked
reconstruction.

Reproduces: in kind Chen, Zhao, Bruzzone, "A Novel Approach to Incomplete Multimodal Learning for Remote Sensing Data
            Fusion" (TGRS 2024, arXiv 2304.11381). Simplified: no separate pre-training, its two losses are added to the
            segmentation's, at one scale; features are reconstructed instead of pixels. In the SGMA paper IMLT has on
            ISPRS Average 70.35, Last-1 38.78 (mIoU %).
Command:    sgma train experiments/baselines/imlt_like.py --data.path runs/demo/data --workdir runs/imlt_like
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import FusionTokenConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset, with its modality dropout, and the fusion token with its losses."""
    return dataclasses.replace(base, model=dataclasses.replace(base.model, fusion=FusionTokenConfig()), sampling=None)


config = dataclasses.replace(method(demo), name="imlt_like")
