"""Ablation:   the number of attention heads of SGF, at every scale alike.

Reproduces: nothing of the paper, which is silent here; it shows what our choice is worth.
Command:    sgma train experiments/ablations/heads.py --data.path runs/demo/data --workdir runs/ablation_heads
"""

import dataclasses
from functools import partial

from experiments.demo import config as demo
from sgma_jax.config import SemanticGuidedFusionConfig, TrainConfig


def with_heads(base: TrainConfig, heads: int) -> TrainConfig:
    """The base preset with a fixed number of heads, which has to divide the encoder's channels."""
    return dataclasses.replace(
        base, model=dataclasses.replace(base.model, fusion=SemanticGuidedFusionConfig(heads=heads))
    )


rows = {f"heads_{n}": partial(with_heads, heads=n) for n in (1, 2, 4)}


config = dataclasses.replace(rows["heads_1"](demo), name="ablation_heads")
