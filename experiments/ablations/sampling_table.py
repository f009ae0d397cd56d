"""Ablation:   the table that MAS draws from: one row per record, its decay, its lag.

Reproduces: nothing of the paper, which is silent here; it shows what our choice is worth.
Command:    sgma train experiments/ablations/sampling_table.py --data.path runs/demo/data --workdir
            runs/ablation_sampling_table
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.demo import config as demo
from sgma_jax.config import SamplingConfig, TrainConfig


def with_table(base: TrainConfig, **changes: Any) -> TrainConfig:
    """The base preset with another table."""
    return dataclasses.replace(base, sampling=SamplingConfig(**changes))


rows: dict[str, Callable[[TrainConfig], TrainConfig]] = {
    "granularity_sample": partial(with_table, granularity="sample"),
    "decay_0": partial(with_table, decay=0.0),
    "decay_0.99": partial(with_table, decay=0.99),
    "lag_0": partial(with_table, lag=0),
    "lag_10": partial(with_table, lag=10),
}


config = dataclasses.replace(rows["granularity_sample"](demo), name="ablation_sampling_table")
