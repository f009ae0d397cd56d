"""Configurations that cannot work: one table of ranges, and the conditions between fields."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from sgma_jax.config import (
    DataConfig,
    FusionTokenConfig,
    ModelConfig,
    OptimizerConfig,
    PvtV2Config,
    SamplingConfig,
    SemanticGuidedFusionConfig,
    TrainConfig,
)
from sgma_jax.errors import InputError


class Range(NamedTuple):
    """Numbers that a field may hold, and how a message says so."""

    low: float
    high: float
    said: str
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Return whether the number lies in the range; NaN lies in none."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


AT_LEAST_1 = Range(1, math.inf, "it must be at least 1")
AT_LEAST_0 = Range(0, math.inf, "it must be at least 0")
POSITIVE = Range(0, math.inf, "it must be positive", open_low=True)
PROBABILITY = Range(0, 1, "it is a probability between 0 and 1")
RATE = Range(0, 1, "it is a probability of at least 0 and below 1", open_high=True)

RANGES: dict[type, dict[str, Range]] = {
    TrainConfig: {
        **dict.fromkeys(("steps", "evaluate_every", "log_every", "keep_checkpoints", "max_bad_steps"), AT_LEAST_1),
        **dict.fromkeys(("fsdp", "space", "accumulate"), AT_LEAST_1),
        **dict.fromkeys(("keep_every", "keep_best", "warmup_steps"), AT_LEAST_0),
        "seed": Range(0, 2**32 - 1, "it must lie between 0 and 2^32 - 1"),
    },
    DataConfig: {
        **dict.fromkeys(("crop", "batch_size", "evaluation_batch_size"), AT_LEAST_1),
        **dict.fromkeys(("workers", "max_bad_records"), AT_LEAST_0),
        "modality_dropout": PROBABILITY,
    },
    ModelConfig: {"magnify": AT_LEAST_1, "head_width": AT_LEAST_1, "head_dropout": RATE},
    PvtV2Config: {"drop_path_rate": RATE},
    SemanticGuidedFusionConfig: {"heads": AT_LEAST_0},
    FusionTokenConfig: {"temperature": POSITIVE},
    SamplingConfig: {"decay": Range(0, 1, "it must be at least 0 and below 1", open_high=True), "floor": POSITIVE,
                     "lag": AT_LEAST_0},
    OptimizerConfig: {
        "peak_learning_rate": POSITIVE,
        "clip_norm": Range(0, math.inf, "it must be positive (1e9, for instance, clips nothing)", open_low=True),
    },
}  # fmt: skip


def check(config: TrainConfig) -> None:
    """Raise InputError for a configuration that cannot work, naming the field and the way out."""
    for name, value, allowed in _numbers(config):
        if not allowed.holds(value):
            raise InputError(f"{name} is {value}; {allowed.said}.")
    _check_data(config)
    _check_model(config)
    config.loss.check(len(config.data.classes))
    if not config.warmup_steps < config.steps:
        raise InputError(f"warmup_steps is {config.warmup_steps}; it must be smaller than steps ({config.steps}).")
    if "://" in config.storage and not config.storage.startswith("gs://"):
        raise InputError(
            f"storage is {config.storage}, but Orbax writes to gs:// and to folders only; mount the bucket, and give "
            "the folder."
        )


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float, Range]]:
    """Yield dotted name, value and range of every number in the table."""
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{name}.")
        elif allowed := RANGES.get(type(config), {}).get(field.name):
            yield name, value, allowed


def _check_data(config: TrainConfig) -> None:
    data = config.data
    if len(set(data.modalities)) != len(data.modalities):
        raise InputError(f"data.modalities names a sensor twice: {', '.join(data.modalities)}. Name each once.")
    if not data.modalities or len(data.bands) != len(data.modalities):
        raise InputError(
            f"data.bands has {len(data.bands)} entries for {len(data.modalities)} data.modalities; give one per sensor."
        )
    if len(data.classes) < 2:
        raise InputError("data.classes names fewer than two classes; name at least two.")
    if config.model.stem == "replicate" and (wrong := [b for b in data.bands if b not in (1, 3)]):
        raise InputError(
            f'model.stem="replicate" takes sensors of 1 or 3 bands, not {wrong[0]} (data.bands); use stem="linear" in '
            f"the "
            "preset."
        )


def _check_model(config: TrainConfig) -> None:
    fusion = config.model.fusion
    fusion.check()
    kind = type(fusion).__name__
    if config.sampling and not fusion.trains_drawn_modality:
        raise InputError(
            f"model.fusion is {kind}, which cannot train a drawn sensor alone; set sampling=None in the preset."
        )
    if config.space > 1 and fusion.needs_whole_images:
        raise InputError(
            f"space is {config.space}, but the losses of model.fusion ({kind}) need whole images; set space to 1."
        )
