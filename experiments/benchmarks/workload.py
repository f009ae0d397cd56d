"""The work of the side-by-side benchmarks: the network, a batch and the weights, the same for every contender."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sgma_jax.config import (
    DataConfig,
    MeanFusionConfig,
    ModelConfig,
    PvtV2Config,
    SemanticGuidedFusionConfig,
    TrainConfig,
)
from sgma_jax.data.transforms import drop_modalities
from sgma_jax.structs import Batch

WEIGHTS = "weights.npz"
TORCH_WEIGHTS = "torch_weights.npz"
"""The same under PyTorch's names, so that PyTorch's contenders need not load JAX."""
SETTLING_STEPS = 3
"""Training steps before the clock starts; their losses are the answer that contenders must agree on."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Sizes of the benchmark; the defaults are those of docs/benchmarks.md."""

    variant: Literal["b0", "b1", "b2", "b3", "b4", "b5"] = "b0"
    """Variant of PVT-v2."""
    fusion: Literal["sgf", "mean"] = "sgf"
    """Semantic-guided fusion, or the mean of the baseline row."""
    batch: int = 8
    """Samples in a batch."""
    sensors: int = 3
    """Sensors of a sample: one of three bands, the others of one."""
    size: int = 128
    """Side of the images, in pixels."""
    classes: int = 5
    """Semantic classes."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation."""
    modality_dropout: float = 0.0
    """Probability that a sample keeps a random subset of its sensors for the fused branch (training only)."""


def config_of(workload: Workload) -> TrainConfig:
    """The configuration; drop path and dropout are 0, so that all contenders compute the same numbers."""
    fusion = SemanticGuidedFusionConfig() if workload.fusion == "sgf" else MeanFusionConfig()
    modalities = tuple(f"sensor{i}" for i in range(workload.sensors))
    classes = tuple(f"class{i}" for i in range(workload.classes))
    return TrainConfig(
        name="benchmark",
        data=DataConfig(
            modalities=modalities,
            bands=(3,) + (1,) * (workload.sensors - 1),
            classes=classes,
            crop=workload.size,
            batch_size=workload.batch,
            evaluation_batch_size=workload.batch,
        ),
        model=ModelConfig(
            encoder=PvtV2Config(variant=workload.variant, drop_path_rate=0.0),
            fusion=fusion,
            head_dropout=0.0,
            dtype=workload.dtype,
        ),
        steps=100_000,
    )


def batch_of(workload: Workload) -> Batch:
    """Random images with every sensor present, random labels, and what dropout and MAS drew; always the same."""
    config, rng = config_of(workload).data, np.random.default_rng(0)
    shape = (workload.batch, workload.size, workload.size)
    images = {
        m: rng.normal(size=(*shape, bands)).astype(np.float32)
        for m, bands in zip(config.modalities, config.bands, strict=True)
    }
    present = np.ones(workload.sensors, bool)
    kept = np.stack([drop_modalities(present, workload.modality_dropout, rng) for _ in range(workload.batch)])
    return Batch(
        images=images,
        available=np.ones((workload.batch, workload.sensors, *shape[1:]), bool),
        kept=kept,
        labels=rng.integers(0, workload.classes, size=shape).astype(np.int32),
        ids=np.arange(workload.batch, dtype=np.int32),
        drawn=rng.integers(0, workload.sensors, size=workload.batch).astype(np.int32),
    )


def save_variables(folder: Path, variables: Any) -> None:
    """Write the variables with their paths joined by "/"; `load_variables` reads them."""
    flat: dict[str, np.ndarray] = {}

    def collect(tree: Any, path: str) -> None:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                collect(value, f"{path}{key}/")
            else:
                flat[f"{path}{key}"] = np.asarray(value)

    collect(variables, "")
    np.savez(folder / WEIGHTS, **flat)  # type: ignore[arg-type]


def load_variables(folder: Path) -> dict[str, Any]:
    """The variables as nested dicts of numpy arrays."""
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    with np.load(folder / WEIGHTS) as file:
        for name in file.files:
            *path, leaf = name.split("/")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = file[name]
    return tree
