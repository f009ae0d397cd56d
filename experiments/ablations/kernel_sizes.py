"""Ablation:   fewer depthwise kernels in the projectors.

Reproduces: nothing of the paper, which has 11, 7 and 3; it shows what they are worth.
Command:    sgma train experiments/ablations/kernel_sizes.py --data.path runs/demo/data --workdir
            runs/ablation_kernel_sizes
"""

import dataclasses
from functools import partial

from experiments.demo import config as demo
from sgma_jax.config import SemanticGuidedFusionConfig, TrainConfig


def with_kernels(base: TrainConfig, sizes: tuple[int, ...]) -> TrainConfig:
    """The base preset with other kernels."""
    return dataclasses.replace(
        base, model=dataclasses.replace(base.model, fusion=SemanticGuidedFusionConfig(kernel_sizes=sizes))
    )


rows = {f"kernels_{'_'.join(map(str, sizes))}": partial(with_kernels, sizes=sizes) for sizes in ((3,), (7, 3), (11,))}


config = dataclasses.replace(rows["kernels_3"](demo), name="ablation_kernel_sizes")
