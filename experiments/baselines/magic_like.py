"""Baseline after MAGIC: sensors ranked by likeness to their aggregate; the most robust and the most fragile train on
their own.

Reproduces: in kind Zheng, Lyu, Zhou, Wang, "Centering the Value of Every Modality" (ECCV 2024, arXiv 2407.11344):
            aggregation, arbitrary-modal selection, cosine alignment. Simplified: one convolution block as aggregation,
            ranking per sample and scale, alignment of all sensors but the most robust. In the SGMA paper MAGIC has on
            ISPRS Average 67.43, Last-1 34.34 (mIoU %).
Command:    sgma train experiments/baselines/magic_like.py --data.path runs/demo/data --workdir runs/magic_like
"""

import dataclasses

from experiments.demo import config as demo
from sgma_jax.config import RankedSelectionFusionConfig, TrainConfig


def method(base: TrainConfig) -> TrainConfig:
    """The base preset with ranked selection; as MAGIC, it trains on complete data, and the selection takes the place
    of dropout."""
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, modality_dropout=0.0),
        model=dataclasses.replace(base.model, fusion=RankedSelectionFusionConfig()),
        sampling=None,
    )


config = dataclasses.replace(method(demo), name="magic_like")
