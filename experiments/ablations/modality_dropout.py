"""Ablation:   how often a sample loses sensors in training; with and without MAS.

Reproduces: with `without_mas` at 0 the paper's row "SGF only", if that row was trained without modality dropout (ISPRS:
            Average 49.13, Last-1 7.01, mIoU %); otherwise nothing of the paper, which does not vary it.
Command:    sgma train experiments/ablations/modality_dropout.py --data.path runs/demo/data --workdir
            runs/ablation_modality_dropout
"""

import dataclasses
from functools import partial

from experiments.demo import config as demo
from sgma_jax.config import TrainConfig


def with_dropout(base: TrainConfig, probability: float) -> TrainConfig:
    """The base preset with another probability of modality dropout."""
    return dataclasses.replace(base, data=dataclasses.replace(base.data, modality_dropout=probability))


def without_mas(base: TrainConfig, probability: float) -> TrainConfig:
    """The same without MAS: at 0 what the paper's row "SGF only" is if it was trained without dropout."""
    return dataclasses.replace(with_dropout(base, probability), sampling=None)


rows = {f"dropout_{p}": partial(with_dropout, probability=p) for p in (0.0, 0.25, 0.75)}
rows["sgf_only_dropout_0.0"] = partial(without_mas, probability=0.0)


config = dataclasses.replace(rows["sgf_only_dropout_0.0"](demo), name="ablation_modality_dropout")
